"""How large a branch is for one user: `fedrec.personalization.plgc.balance`; PLGC's kernel."""

from __future__ import annotations

import numpy as np

from fedrec.compute.numba_compiler import compiled, compiled_sums
from fedrec.training.executors.numba.arithmetic import add_rows, dot
from fedrec.training.executors.numba.draws import keep_some
from fedrec.training.executors.numba.values import BLOCK

__all__ = ["aim", "branch_of", "size_of_rows"]


@compiled
def aim(s, positives, balance, chance, target):
    """What the features are summed with: centred labels, errors, or ones.

    Args:
        s: number of pairs; the positives come first.
        positives: how many are positives.
        balance: see `fedrec.training.executors.numba.values.BALANCES`.
        chance: float64 [s], the predicted probabilities.
        target: float [s], filled.
    """
    mean = positives / s
    for i in range(s):
        target[i] = chance[i] if balance == 2 else 1.0 if balance == 3 else -mean
    if balance < 3:
        for i in range(positives):
            target[i] -= 1.0 if balance == 2 else -1.0


@compiled
def _size(balance, along, squared, s, scale):
    """The size of a branch from the two sums over its features, times ``scale`` squared.

    Args:
        balance: see `fedrec.training.executors.numba.values.BALANCES`.
        along: float [h], the sum of target times features.
        squared: the sum of squared features.
        s: number of rows.
        scale: factor of the features.
    """
    one = 0.0
    for i in range(len(along)):
        one += np.float64(along[i]) * along[i]
    if balance == 1:
        return one / squared if squared > 0 else 0.0
    if balance == 2:
        return one * scale * scale
    return max(squared - one / s, 0.0) * scale * scale


@compiled
def size_of_rows(rows, at, target, balance, bias, along):
    """The size of a branch whose features are rows, with a last feature of 1 if ``bias``."""
    d, s = rows.shape[1], len(at)
    along[: d + 1] = 0.0
    add_rows(rows, at, target, along)
    squared = float(s) if bias else 0.0
    for i in range(s):
        row = rows[at[i]]
        squared += dot(row, row)
        along[d] += target[i] if bias else 0.0
    return _size(balance, along[: d + 1], squared, s, 1.0)


@compiled
def branch_of(z, settings, room, target, ids, pairs, user, positives, with_size):
    """The local branch of a user's pairs in the kernel form.

    Args:
        z: float [n_items, d], the directions.
        settings: `Settings`.
        room: `Room.kernel`.
        target: float [s], what `aim` made of the pairs, if a size is wanted.
        ids: int64 [t], the items of the slots.
        pairs: `Pairs` of the epoch; ``branch`` is filled.
        user: id of the user.
        positives: number of its positives.
        with_size: whether the size of the branch is wanted.

    Returns:
        The size of the branch, 0 if it is not wanted.
    """
    s = len(pairs.slots)
    n = positives if settings.cap == 0 else min(settings.cap, positives)
    kept = room.kept[:n]
    for j in range(n):
        kept[j] = j
    if n < positives:
        own = np.empty(positives, np.int64)
        for j in range(positives):
            own[j] = ids[pairs.slots[j]]
        keep_some(settings.seed, user, own, n, kept)
    # Columns of zeros change no sum, and whole vectors need no rest.
    width = (n + 15) // 16 * 16
    right, along = room.right[:width], room.along[:width]
    squares, zero = room.squares[:width], z.dtype.type(0.0)
    along[:], squares[:], right[n:] = 0.0, 0.0, 0.0
    for j in range(n):
        right[j] = z[ids[pairs.slots[kept[j]]]]
    scale, column = 1.0 / np.sqrt(max(n, 1)), 0
    for start in range(0, s, BLOCK):
        m = min(BLOCK, s - start)
        for i in range(m):
            row, source = room.left[i], z[ids[pairs.slots[start + i]]]
            for a in range(len(row)):
                row[a] = source[a]
        kappa = room.kappa[: m * width].reshape(m, width)
        np.dot(room.left[:m], right.T, kappa)
        for i in range(m):
            if column < n and kept[column] == start + i:
                kappa[i, column] = 0.0
                column += 1
        if settings.beta != 2:
            _activate(room.kappa[: m * width], settings.beta)
        for i in range(m):
            factor = target[start + i] if with_size else zero
            total = _fold(kappa[i], settings.beta == 2, factor, along, squares)
            pairs.branch[start + i] = scale * total
    return _size(settings.balance, along, _sum(squares), s, scale) if with_size else 0.0


@compiled
def _activate(flat, beta):
    """max(0, x)**beta, in place."""
    zero = flat.dtype.type(0.0)
    for i in range(len(flat)):
        x = flat[i] if flat[i] > zero else zero
        power = x
        for _ in range(beta - 1):
            power *= x
        flat[i] = power


@compiled_sums
def _fold(row, square, factor, along, squares):
    """along += factor * x and squares += x**2; return the sum of x.

    Args:
        row: float [n]; x, or its root where that is positive.
        square: whether the row holds roots.
        factor: a number.
        along: float [n].
        squares: float [n].
    """
    zero = total = row.dtype.type(0.0)
    for j in range(len(row)):
        x = row[j]
        if square:
            x = x if x > zero else zero
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
