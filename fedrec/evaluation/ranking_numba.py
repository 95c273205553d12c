"""Ranks and top lists of a block of users in machine code, row after row.

A row of scores is swept several times while it is in the cache. The readable reference is
`fedrec.evaluation.ranking.place_by_definition`; both give the same integers.
"""

from __future__ import annotations

import numpy as np

from fedrec.compute.numba_compiler import compiled

__all__ = ["insert", "place_users"]

_STRIDE = 32


@compiled
def place_users(scores, stride, n_items, rows, train, valid, test, valid_ranks, test_ranks, top):
    """Rank the held-out items of some users, and list what stands first.

    Args:
        scores: float [...], the rows of scores, one after the other.
        stride: from the start of one row to the next.
        n_items: length of a row.
        rows: int64 [b], where each user stands in ``train``, ``valid`` and ``test``.
        train: offsets int64 [u + 1] and items of each user.
        valid: the same.
        test: the same.
        valid_ranks: int64, written: user after user, the sorted ranks of its validation items.
        test_ranks: int64, written: the same of its test items.
        top: int64 [b, k], all -1, written for users that have test items: see `ranking.top_k`.

    Returns:
        How many users have a score that is NaN; their results are not written.
    """
    mark = np.zeros(n_items, np.int64)
    masked = np.empty(n_items, np.int64)
    bars = np.empty(n_items, scores.dtype)
    best = np.empty(top.shape[1], scores.dtype)
    nothing = rows[:0]
    stamp, diverged, at_valid, at_test = 0, 0, 0, 0
    for i in range(len(rows)):
        u = rows[i]
        row = scores[i * stride : i * stride + n_items]
        if _any_nan(row):
            diverged += 1
            continue
        items = train[1][train[0][u] : train[0][u + 1]]
        first = valid[1][valid[0][u] : valid[0][u + 1]]
        last = test[1][test[0][u] : test[0][u + 1]]
        stamp += 1
        out = valid_ranks[at_valid : at_valid + len(first)]
        _rank(row, first, items, nothing, mark, stamp, masked, bars, out)
        at_valid += len(first)
        stamp += 1
        out = test_ranks[at_test : at_test + len(last)]
        _rank(row, last, items, first, mark, stamp, masked, bars, out)
        at_test += len(last)
        if top.shape[1] > 0 and len(last) > 0:
            stamp += 1
            _list(row, items, first, mark, stamp, best, top[i])
    return diverged


@compiled
def _any_nan(row):
    unequal = 0
    for j in range(len(row)):
        unequal |= row[j] != row[j]
    return unequal != 0


@compiled
def _reaching(row, bar):
    count = 0
    for j in range(len(row)):
        count += row[j] >= bar
    return count


@compiled
def _rank(row, relevant, excluded, more_excluded, mark, stamp, masked, bars, out):
    """Write the sorted ranks of the relevant items of a user.

    All items are counted, and those that do not compete are taken off again.
    """
    if len(relevant) == 0:
        return
    n_masked = 0
    for items in (excluded, more_excluded, relevant):
        for item in items:
            if mark[item] != stamp:
                mark[item] = stamp
                masked[n_masked] = item
                n_masked += 1
    for place in range(len(relevant)):
        bars[place] = row[relevant[place]]
    bars[: len(relevant)].sort()
    for place in range(len(relevant)):
        bar = bars[len(relevant) - 1 - place]
        above = _reaching(row, bar)
        for g in range(n_masked):
            above -= row[masked[g]] >= bar
        out[place] = above + place + 1


@compiled
def _list(row, excluded, more_excluded, mark, stamp, best, items):
    """Write the items with the highest scores; of equal ones, the lowest index first."""
    for masked in (excluded, more_excluded):
        for item in masked:
            mark[item] = stamp
    k, n, count, start = len(items), len(row), 0, 0
    while count < k and start < n:
        if mark[start] != stamp:
            count = insert(row[start], start, best, items, count)
        start += 1
    if count < k:
        return
    bar = best[k - 1]
    while start < n:
        stride = row[start : start + _STRIDE]
        # Most strides hold nothing above the bar, and a loop without branches finds out.
        hits = 0
        for j in range(len(stride)):
            hits += stride[j] > bar
        if hits > 0:
            for j in range(len(stride)):
                if stride[j] > bar and mark[start + j] != stamp:
                    insert(stride[j], start + j, best, items, k - 1)
                    bar = best[k - 1]
        start += _STRIDE


@compiled
def insert(score, item, best, items, count):
    """Put an item behind all that are as good, among the first ``count``; return their number."""
    at = count
    while at > 0 and best[at - 1] < score:
        best[at], items[at] = best[at - 1], items[at - 1]
        at -= 1
    best[at], items[at] = score, item
    return count + 1
