"""Ranks and top lists from the scores of some items at a time, in machine code.

All users see `WIDTH` items, then the next ones. The scores of the held-out items are known
before, so ranks are counted and no row of scores is kept.
"""

from __future__ import annotations

import numpy as np

from fedrec.compute.numba_compiler import compiled
from fedrec.evaluation.ranking_numba import insert

__all__ = ["WIDTH", "advance", "count_columns"]

WIDTH = 128
"""Items that are seen at once."""


@compiled
def advance(offsets, values, last, begin, end):
    """Move on to the next items: ``begin`` to where ``end`` was, ``end`` to the first beyond.

    Args:
        offsets: int64 [u + 1].
        values: int64, sorted items of each user.
        last: one beyond the last of the items.
        begin: int64 [u], where each user's items among them begin in ``values``; changed.
        end: int64 [u], where they end; changed.
    """
    for u in range(len(begin)):
        at, stop = end[u], offsets[u + 1]
        begin[u] = at
        while at < stop and values[at] < last:
            at += 1
        end[u] = at


@compiled
def count_columns(
    scores, start, first_user, train, valid, test, targets, counts, best, listed, filled, diverged
):
    """Count the items that reach the held-out items of some users; merge the top lists.

    Args:
        scores: float [b, c], c <= `WIDTH`.
        start: the item of the first column.
        first_user: the user row of the first row of scores; all below are per user row.
        train: (begin, end, items): see `advance`.
        valid: (begin, end, items, offsets).
        test: the same.
        targets: float per validation and per test item: the scores of the held-out items.
        counts: int64 per validation and per test item: added to.
        best: float [u, k], the scores of the top lists, descending; k = 0 for none.
        listed: int64 [u, k], their items.
        filled: int64 [u], how long they are; -1: no list is wanted.
        diverged: int32 [u], not 0 for a user that has a score that is NaN.
    """
    # Items that do not compete become NaN: a comparison with it is false, whatever the scores.
    row = np.full(WIDTH, np.nan, scores.dtype)
    k, c = best.shape[1], scores.shape[1]
    for i in range(len(scores)):
        u = first_user + i
        source, unequal = scores[i], np.int32(0)
        for j in range(c):
            x = source[j]
            row[j] = x
            unequal |= np.int32(x != x)
        diverged[u] |= unequal
        for at in range(train[0][u], train[1][u]):
            row[train[2][at] - start] = np.nan
        for at in range(valid[0][u], valid[1][u]):
            row[valid[2][at] - start] = np.nan
        for at in range(valid[3][u], valid[3][u + 1]):
            counts[0][at] += _reaching(row, targets[0][at])
        if k > 0 and filled[u] >= 0:
            filled[u] = _merge(row, start, best[u], listed[u], filled[u])
        for at in range(test[0][u], test[1][u]):
            row[test[2][at] - start] = np.nan
        for at in range(test[3][u], test[3][u + 1]):
            counts[1][at] += _reaching(row, targets[1][at])


@compiled
def _reaching(row, target):
    count = np.int32(0)
    for j in range(WIDTH):
        count += np.int32(row[j] >= target)
    return count


@compiled
def _merge(row, start, best, listed, filled):
    """Merge the scores of a row into a top list; of equal ones, the lowest index comes first."""
    k, first = len(best), 0
    while filled < k and first < WIDTH:
        if row[first] == row[first]:
            filled = insert(row[first], start + first, best, listed, filled)
        first += 1
    if filled < k:
        return filled
    worst, hits = best[k - 1], np.int32(0)
    for j in range(WIDTH):
        hits += np.int32(row[j] > worst)
    if hits > 0:
        for j in range(first, WIDTH):
            if row[j] > best[k - 1]:
                insert(row[j], start + j, best, listed, k - 1)
    return filled
