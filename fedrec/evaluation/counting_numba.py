"""Ranks and top lists from the scores of some items, in machine code.

The scores of the held-out items are known before, so what reaches them is counted, and no row of
scores is kept. The readable reference is `fedrec.evaluation.ranking.place_by_definition`.
"""

import numpy as np

from fedrec.compute.numba_compiler import compiled

__all__ = ["WIDTH", "count_reaching"]

WIDTH = 128
"""Items that are looked at together: their scores stay in the nearest cache."""


@compiled
def count_reaching(
    scores, first_item, first_user, excluded, valid, test, targets, counts, lists, diverged, moves
):
    """Count the items that reach the held-out items of some users; merge the top lists.

    Args:
        scores: float [b, c], of neighbouring users and items.
        first_item: the item of the first column.
        first_user: the user of the first row; all below are per user.
        excluded: (offsets, items, at): the sorted items of each user that do not compete, and
            which of them comes next, int64 [u].
        valid: offsets of the validation items, int64 [u + 1].
        test: (offsets, items, at), as for ``excluded``: the test items.
        targets: float per validation and per test item: the scores of the held-out items.
        counts: int64 per validation and per test item: added to.
        lists: (scores, items, lengths): the top lists, float and int64 [u, k], best first, and
            how long they are, -1 where none is wanted.
        diverged: bool [u], set for a user that has a score that is NaN.
        moves: whether ``at`` is changed: at the last of several scores for the same items.
    """
    # Items that do not compete become NaN: a comparison with it is false, whatever the scores.
    row = np.empty(WIDTH, scores.dtype)
    for i in range(len(scores)):
        u = first_user + i
        next_excluded, next_test = excluded[2][u], test[2][u]
        best, listed, length = lists[0][u], lists[1][u], lists[2][u]
        unequal = False
        for start in range(0, scores.shape[1], WIDTH):
            first = first_item + start
            unequal |= _copy(scores[i, start : start + WIDTH], row)
            next_excluded = _mask(row, first, excluded[1], next_excluded, excluded[0][u + 1])
            for place in range(valid[u], valid[u + 1]):
                counts[0][place] += _reaching(row, targets[0][place])
            if length >= 0:
                length = _merge(row, first, best, listed, length)
            next_test = _mask(row, first, test[1], next_test, test[0][u + 1])
            for place in range(test[0][u], test[0][u + 1]):
                counts[1][place] += _reaching(row, targets[1][place])
        diverged[u] |= unequal
        lists[2][u] = length
        if moves:
            excluded[2][u], test[2][u] = next_excluded, next_test


@compiled
def _copy(scores, row):
    """Copy some scores, filled up with NaN; return whether one is NaN."""
    unequal = np.int32(0)
    for j in range(len(scores)):
        x = scores[j]
        row[j] = x
        unequal |= np.int32(x != x)
    for j in range(len(scores), WIDTH):
        row[j] = np.nan
    return unequal != 0


@compiled
def _mask(row, first, items, at, end):
    """Overwrite the items that are in the row with NaN; return what comes next."""
    while at < end and items[at] < first + WIDTH:
        row[items[at] - first] = np.nan
        at += 1
    return at


@compiled
def _reaching(row, target):
    count = np.int32(0)
    for j in range(WIDTH):
        count += np.int32(row[j] >= target)
    return count


@compiled
def _merge(row, first, best, items, length):
    """Merge a row into a top list; of equal scores, the lowest item comes first."""
    start = 0
    while length < len(best) and start < WIDTH:
        if row[start] == row[start]:
            _insert(row[start], first + start, best, items, length)
            length += 1
        start += 1
    if length < len(best):
        return length
    hits, worst = np.int32(0), best[length - 1]
    # Most rows hold nothing above the worst, and a loop without branches finds out.
    for j in range(WIDTH):
        hits += np.int32(row[j] > worst)
    if hits > 0:
        for j in range(start, WIDTH):
            if row[j] > best[length - 1]:
                _insert(row[j], first + j, best, items, length - 1)
    return length


@compiled
def _insert(score, item, best, items, length):
    """Put an item behind all that are as good, among the first ``length``."""
    at = length
    while at > 0 and best[at - 1] < score:
        best[at], items[at] = best[at - 1], items[at - 1]
        at -= 1
    best[at], items[at] = score, item
