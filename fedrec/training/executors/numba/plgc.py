"""PLGC's similarity branch, its weight by alignment, and the decorrelation, in closed form."""

import numpy as np

from fedrec.compute.numba_compiler import compiled, compiled_sums
from fedrec.training.executors.numba.arithmetic import add_rows, dot
from fedrec.training.executors.numba.draws import sample_history

BLOCK = 128
"""Rows of a similarity matrix that are computed at a time."""


@compiled
def local_weight(data, settings, scratch, pairs, u, ids, positives):
    """Fill the similarity branch of a user's pairs, by local row; return its weight by alignment.

    ``ids`` int64 [t], the items of the local rows; the first ``positives`` pairs are positives.
    """
    s = len(pairs.rows)
    target, items, mean = scratch.target[:s], scratch.items[:s], positives / s
    target[:], items[:] = -mean, ids[pairs.rows]
    target[:positives] += 1.0
    local = _similarity(data, settings, scratch, pairs.rows, items, u, positives)
    shared = _alignment_of_rows(data.table, items, target, settings.bias, scratch.along)
    return local / (local + shared) if local + shared > 0 else 0.5


@compiled
def _alignment(along, squared):
    """Return the squared length of the summed features, over the sum of squared features."""
    one = 0.0
    for i in range(len(along)):
        one += np.float64(along[i]) * along[i]
    return one / squared if squared > 0 else 0.0


@compiled
def _alignment_of_rows(rows, at, target, bias, along):
    """Return the alignment of features that are rows, with a last feature of 1 if ``bias``."""
    d, s = rows.shape[1], len(at)
    along[: d + 1] = 0.0
    add_rows(rows, at, target, along)
    squared = float(s) if bias else 0.0
    for i in range(s):
        row = rows[at[i]]
        squared += dot(row, row)
        along[d] += target[i] if bias else 0.0
    return _alignment(along[: d + 1], squared)


@compiled
def _similarity(data, settings, scratch, rows, items, u, positives):
    """Fill the similarity branch of a user's pairs, by local row; return its alignment."""
    z, s = data.unit_vectors, len(rows)
    n = positives if settings.cap == 0 else min(settings.cap, positives)
    history = scratch.history[:n]
    history[:] = np.arange(n)
    if n < positives:
        sample_history(settings.seed, data.users[u], items[:positives], n, history)
    # Columns of zeros change no sum, and full vectors need no rest.
    width = (n + 15) // 16 * 16
    right, along = scratch.right[:width], scratch.along[:width]
    squares = scratch.squares[:width]
    along[:], squares[:], right[n:] = 0.0, 0.0, 0.0
    for j in range(n):
        right[j] = z[items[history[j]]]
    scale, column = 1.0 / np.sqrt(max(n, 1)), 0
    for start in range(0, s, BLOCK):
        m = min(BLOCK, s - start)
        for i in range(m):
            scratch.left[i] = z[items[start + i]]
        kappa = scratch.kappa[: m * width].reshape(m, width)
        np.dot(scratch.left[:m], right.T, kappa)
        for i in range(m):
            if column < n and history[column] == start + i:
                kappa[i, column] = 0.0
                column += 1
        for i in range(m):
            total = _fold(kappa[i], scratch.target[start + i], along, squares)
            scratch.branch[rows[start + i]] = scale * total
    return _alignment(along, _sum(squares))


@compiled_sums
def _fold(row, factor, along, squares):
    """Square what is positive of a row, add it to the sums of columns; return its sum."""
    zero = total = row.dtype.type(0.0)
    for j in range(len(row)):
        x = row[j] if row[j] > zero else zero
        x = x * x
        total += x
        along[j] += factor * x
        squares[j] += x * x
    return total


@compiled_sums
def _sum(row):
    total = 0.0
    for j in range(len(row)):
        total += row[j]
    return total


@compiled
def decorrelation(rows, at, weight, z, dz, gram):
    """Compute the weighted gradient of `fedrec.personalization.plgc.decorrelation.single_view`.

    It is linear in the standardised rows: it is their product with the correlations, which carry on
    their diagonal what standardising takes away.

    Args:
        rows: float [t, d].
        at: int32 [n], which of them.
        weight: of the term.
        z: float [n, d], scratch.
        dz: float [n, d], filled.
        gram: float [2, d, d], scratch.

    Returns:
        False if there is no gradient.
    """
    n, d = len(at), rows.shape[1]
    if n < 2 or d < 2:
        return False
    inverse, off = gram[1, 0], gram[0]
    _centre(rows, at, z, inverse)
    np.dot(z.T, z, off)
    _turn(off, inverse, 1.0 / n, weight * 4.0 / (float(n) * d * (d - 1)))
    np.dot(z, off, dz)
    return True


@compiled
def _centre(rows, at, z, inverse):
    """z = the rows, centred; inverse = 1 / standard deviation, 1 for a constant column."""
    n, d = len(at), rows.shape[1]
    zero = rows.dtype.type(0.0)
    mean, square = np.zeros(d, rows.dtype), np.zeros(d, rows.dtype)
    for i in range(n):
        row, centred = rows[at[i]], z[i]
        for a in range(d):
            centred[a] = row[a]
        for a in range(d):
            mean[a] += row[a]
    for a in range(d):
        mean[a] /= n
    for i in range(n):
        centred = z[i]
        for a in range(d):
            centred[a] -= mean[a]
        for a in range(d):
            square[a] += centred[a] * centred[a]
    for a in range(d):
        inverse[a] = 1.0 / np.sqrt(square[a] / n) if square[a] > zero else 1.0


@compiled_sums
def _turn(off, inverse, share, step):
    """From the sums of products of centred columns to what the rows are multiplied by."""
    d = len(inverse)
    for a in range(d):
        row, along = off[a], off.dtype.type(0.0)
        left, right = off.dtype.type(inverse[a] * share), off.dtype.type(inverse[a] * step)
        row[a] = 0.0
        for b in range(d):
            c = row[b] * (left * inverse[b])
            along += c * c
            row[b] = c * (right * inverse[b])
        row[a] = -along * (right * inverse[a])
