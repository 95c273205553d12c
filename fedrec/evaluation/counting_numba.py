"""Ranks and top lists from the scores of some items, in machine code.

The scores of the held-out items are known before, so what reaches them is counted, and no row of
scores is kept. The readable reference is `fedrec.evaluation.ranking.place_by_definition`.
"""

import numpy as np

from fedrec.compute.numba_compiler import compiled

WIDTH = 128
"""Items that are looked at together: their scores stay in the nearest cache."""


@compiled
def count_reaching(
    scores, branch, first_item, first_user, excluded, valid, test, targets, counts, lists, diverged
):
    """Count the items that reach the held-out items of some users; merge the top lists.

    Args:
        scores: float [v, b, c], of neighbouring users and items; [1, b, c] of the view ``global``
            alone if there is a branch, from which the others are made.
        branch: (sums, scale, share) of `fedrec.personalization.base.Branches`; of length 0 for
            none.
        first_item: the item of the first column.
        first_user: the user of the first row; all below are per user.
        excluded: (offsets, items, at): the sorted items of each user that do not compete, and
            which of them comes next, int64 [u], which is moved on.
        valid: offsets of the validation items, int64 [u + 1].
        test: (offsets, items, at), as for ``excluded``: the test items.
        targets: float [v, n] for the validation and for the test items: their scores.
        counts: int64 [v, n], likewise: added to.
        lists: (scores, items, lengths): the top lists of the first view, float and int64 [u, k],
            best first, and how long they are, -1 where none is wanted.
        diverged: bool [u], set for a user that has a score that is NaN.
    """
    rows = np.empty((len(targets[0]), WIDTH), scores.dtype)
    for i in range(scores.shape[1]):
        u = first_user + i
        at_excluded, at_test = excluded[2][u], test[2][u]
        end_excluded, end_test = excluded[0][u + 1], test[0][u + 1]
        for start in range(0, scores.shape[2], WIDTH):
            first, width = first_item + start, min(scores.shape[2] - start, WIDTH)
            for view in range(len(scores)):
                rows[view, :width] = scores[view, i, start : start + width]
            if len(branch[0]):
                _mix(rows, branch[0], u, branch[1][i], branch[2][i, 0])
            next_excluded, next_test = at_excluded, at_test
            for view in range(len(rows)):
                row = rows[view]
                # Items that do not compete become NaN: no comparison with it holds.
                row[width:] = np.nan
                diverged[u] |= _has_nan(row[:width])
                next_excluded = _mask(row, first, excluded[1], at_excluded, end_excluded)
                _count(row, targets[0][view], valid[u], valid[u + 1], counts[0][view])
                if view == 0 and lists[2][u] >= 0:
                    lists[2][u] = _merge(row, first, lists[0][u], lists[1][u], lists[2][u])
                next_test = _mask(row, first, test[1], at_test, end_test)
                _count(row, targets[1][view], test[0][u], end_test, counts[1][view])
            at_excluded, at_test = next_excluded, next_test
        excluded[2][u], test[2][u] = at_excluded, at_test


@compiled
def _mix(rows, sums, u, scale, share):
    """Make the scores of all views from those of the global branch, which stand first."""
    part = sums.shape[2]
    for at in range(len(sums)):
        for j in range(part):
            base, local = rows[0, at * part + j], sums[at, u, j] * scale
            rows[0, at * part + j] = share * local + base
            rows[1, at * part + j] = base
            rows[2, at * part + j] = local


@compiled
def _has_nan(row):
    unequal = np.int32(0)
    for j in range(len(row)):
        unequal |= np.int32(row[j] != row[j])
    return unequal != 0


@compiled
def _mask(row, first, items, at, end):
    """Overwrite the items that are in the row with NaN; return what comes next."""
    while at < end and items[at] < first + WIDTH:
        row[items[at] - first] = np.nan
        at += 1
    return at


@compiled
def _count(row, targets, start, end, counts):
    """Add to the counts of some held-out items how many of the row reach their scores."""
    for place in range(start, end):
        count, target = np.int32(0), targets[place]
        for j in range(WIDTH):
            count += np.int32(row[j] >= target)
        counts[place] += count


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
