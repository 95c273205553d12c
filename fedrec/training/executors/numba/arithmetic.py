"""What a step computes: products, the logistic function, the optimizer; PLGC in closed form."""

import numpy as np

from fedrec.compute.numba_compiler import compiled, compiled_sums
from fedrec.training.executors.numba.draws import sample_history

_LOG2E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 0.693147180369123816, 1.90821492927058770e-10
_MAGIC = 6755399441055744.0  # 1.5 * 2**52: adding it rounds to a whole number in the low bits.
_MAGIC_BITS = np.float64(_MAGIC).view(np.int64)


@compiled_sums
def dot(a, b):
    """Inner product of two rows; the second may be longer."""
    total = a.dtype.type(0.0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@compiled_sums
def weighted_total(a, b, c, d):
    """Sum of (a + b) * c - a * d, float64 [n] each."""
    total = 0.0
    for i in range(len(a)):
        total += (a[i] + b[i]) * c[i] - a[i] * d[i]
    return total


@compiled_sums
def add_rows(rows, at, factor, total):
    """total += sum of factor[i] * rows[at[i]], four rows at a time.

    Args:
        rows: float [n, d].
        at: int32 [s].
        factor: float [s].
        total: float [d].
    """
    n, d = len(at), rows.shape[1]
    fours = n - n % 4
    for i in range(0, fours, 4):
        a, b, c, e = rows[at[i]], rows[at[i + 1]], rows[at[i + 2]], rows[at[i + 3]]
        fa, fb, fc, fe = factor[i], factor[i + 1], factor[i + 2], factor[i + 3]
        for k in range(d):
            total[k] += (fa * a[k] + fb * b[k]) + (fc * c[k] + fe * e[k])
    for i in range(fours, n):
        row, f = rows[at[i]], factor[i]
        for k in range(d):
            total[k] += f * row[k]


@compiled
def logistic(score, chance, price):
    """chance = 1 / (1 + exp(-score)) and price = log(1 + exp(score)), exact in both tails.

    Written out, so that it is computed for many elements at a time and alike in every place: the
    exponential by its series after a split into a power of two and a rest, log(1 + e) as
    2 artanh(e / (2 + e)). The relative error is below 1e-14.

    Args:
        score: float64 [n].
        chance: float64 [n], filled.
        price: float64 [n], filled.
    """
    for i in range(len(score)):
        x = score[i]
        y = abs(x)
        y = 700.0 if y > 700.0 else y
        shifted = y * _LOG2E + _MAGIC
        power = shifted - _MAGIC
        r = (power * _LN2_HIGH - y) + power * _LN2_LOW
        p = ((1.0 / 479001600 * r + 1.0 / 39916800) * r + 1.0 / 3628800) * r + 1.0 / 362880
        p = ((p * r + 1.0 / 40320) * r + 1.0 / 5040) * r + 1.0 / 720
        p = ((p * r + 1.0 / 120) * r + 1.0 / 24) * r + 1.0 / 6
        p = ((p * r + 0.5) * r + 1.0) * r + 1.0
        exponent = np.int64(1023) - (np.float64(shifted).view(np.int64) - _MAGIC_BITS)
        e = p * np.int64(exponent << np.int64(52)).view(np.float64)
        q = 1.0 / (1.0 + e)
        chance[i] = q if x >= 0.0 else e * q
        z = e / (2.0 + e)
        zz = z * z
        s = ((1.0 / 25 * zz + 1.0 / 23) * zz + 1.0 / 21) * zz + 1.0 / 19
        s = ((s * zz + 1.0 / 17) * zz + 1.0 / 15) * zz + 1.0 / 13
        s = ((s * zz + 1.0 / 11) * zz + 1.0 / 9) * zz + 1.0 / 7
        s = (s * zz + 1.0 / 5) * zz + 1.0 / 3
        price[i] = (x if x > 0.0 else 0.0) + 2.0 * (z + z * (s * zz))


@compiled
def optimizer_step(vector, first, second, gradient, steps, optimizer):
    """Make one step of the private optimizer, in place; ``steps`` counts this one."""
    if not optimizer.adam:
        for a in range(len(vector)):
            vector[a] -= optimizer.lr * gradient[a]
        return
    one, two = 1.0 - optimizer.beta1**steps, 1.0 - optimizer.beta2**steps
    for a in range(len(vector)):
        g = np.float64(gradient[a])
        m = optimizer.beta1 * first[a] + (1.0 - optimizer.beta1) * g
        v = optimizer.beta2 * second[a] + (1.0 - optimizer.beta2) * g * g
        first[a], second[a] = m, v
        vector[a] -= optimizer.lr * (m / one) / (np.sqrt(v / two) + optimizer.epsilon)


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
    _copy_rows(z, items[history], right)
    scale, column = 1.0 / np.sqrt(max(n, 1)), 0
    for start in range(0, s, BLOCK):
        m = min(BLOCK, s - start)
        _copy_rows(z, items[start : start + m], scratch.left)
        kappa = scratch.kappa[: m * width].reshape(m, width)
        np.dot(scratch.left[:m], right.T, kappa)
        for i in range(m):
            if column < n and history[column] == start + i:
                kappa[i, column] = 0.0
                column += 1
        _fold(kappa, scratch.target[start:], along, squares, scale, rows[start:], scratch.branch)
    return _alignment(along, _sum(squares))


@compiled
def _copy_rows(table, rows, copy):
    """copy[i] = table[rows[i]], of a table float [n, d]."""
    for i in range(len(rows)):
        row, copied = table[rows[i]], copy[i]
        for a in range(len(row)):
            copied[a] = row[a]


@compiled_sums
def _fold(kappa, factors, along, squares, scale, at, totals):
    """Square what is positive, add it to the sums of columns; totals[at] = scale * sums of rows.

    Args:
        kappa: float [m, n].
        factors: float [m or more], what rows are multiplied by in ``along``.
        along: float [n].
        squares: float [n].
        scale: a number.
        at: int32 [m or more].
        totals: float, filled where ``at`` says.
    """
    for i in range(len(kappa)):
        row, factor = kappa[i], factors[i]
        zero = total = row.dtype.type(0.0)
        for j in range(len(row)):
            x = row[j] if row[j] > zero else zero
            x = x * x
            total += x
            along[j] += factor * x
            squares[j] += x * x
        totals[at[i]] = scale * total


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
