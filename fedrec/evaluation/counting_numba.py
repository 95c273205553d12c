"""Ranks and top lists from the scores of some items, in machine code.

The scores of the held-out and of the target items are known before, so what reaches them is
counted, and no row of scores is kept. The readable reference is
`fedrec.evaluation.ranking.place_by_definition`.
"""

import numpy as np

from fedrec.compute.numba_compiler import compiled

WIDTH = 128
"""Items that are looked at together: their scores stay in the nearest cache."""


@compiled
def count_reaching(
    scores,
    branch,
    first_item,
    first_user,
    excluded,
    valid,
    test,
    targets,
    goals,
    counts,
    lists,
    diverged,
):
    """Count the items that reach the held-out items of some users; merge the top lists.

    Items reach a target item as well, and it reaches itself and the other targets.

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
        targets: offsets of the target items, int64 [u + 1].
        goals: float [v, n] for the validation, the test and the target items: their scores.
        counts: int64 [v, n], likewise: added to.
        lists: (scores, items, lengths): the top lists of the first view, float and int64 [u, k],
            best first, and how long they are, -1 where none is wanted.
        diverged: bool [u], set for a user that has a score that is NaN.
    """
    # Items that do not compete become NaN: no comparison with it holds.
    rows = np.empty((len(goals[0]), WIDTH), scores.dtype)
    for i in range(scores.shape[1]):
        u = first_user + i
        at_excluded, at_test = excluded[2][u], test[2][u]
        end_excluded, end_test = excluded[0][u + 1], test[0][u + 1]
        for start in range(0, scores.shape[2], WIDTH):
            first, width = first_item + start, min(scores.shape[2] - start, WIDTH)
            for view in range(len(scores)):
                _load(rows[view], scores[view, i, start : start + width])
            if len(branch[0]):
                _mix(rows[0], rows[1], rows[2], branch[0][:, u], branch[1][i], branch[2][i, 0])
                rows[2, width:] = np.nan
            next_excluded, next_test = at_excluded, at_test
            for view in range(len(rows)):
                row = rows[view]
                if _nans(row) > WIDTH - width:
                    diverged[u] = True
                next_excluded = _mask(row, first, excluded[1], at_excluded, end_excluded)
                _count(row, goals[0][view], valid[u], valid[u + 1], counts[0][view])
                _count(row, goals[2][view], targets[u], targets[u + 1], counts[2][view])
                if view == 0 and lists[2][u] >= 0:
                    lists[2][u] = _merge(row, first, lists[0][u], lists[1][u], lists[2][u])
                next_test = _mask(row, first, test[1], at_test, end_test)
                _count(row, goals[1][view], test[0][u], end_test, counts[1][view])
            at_excluded, at_test = next_excluded, next_test
        excluded[2][u], test[2][u] = at_excluded, at_test


@compiled
def _load(row, scores):
    """Copy scores, filled up with NaN."""
    for j in range(len(scores)):
        row[j] = scores[j]
    for j in range(len(scores), WIDTH):
        row[j] = np.nan


@compiled
def _mix(mixed, base, local, sums, scale, share):
    """Make the scores of all views from those of the global branch, which stand first."""
    for part in range(WIDTH // 32):
        for j in range(32):
            local[32 * part + j] = sums[part, j] * scale
    for j in range(WIDTH):
        base[j] = mixed[j]
    for j in range(WIDTH):
        mixed[j] = share * local[j] + base[j]


@compiled
def _nans(row):
    count = np.int32(0)
    for j in range(WIDTH):
        count += np.int32(row[j] != row[j])
    return count


@compiled
def _mask(row, first, items, at, end):
    """Overwrite the items that are in the row with NaN; return what comes next."""
    while at < end and items[at] < first + WIDTH:
        row[items[at] - first] = np.nan
        at += 1
    return at


@compiled
def _count(row, goals, start, end, counts):
    """Add to the counts of some items how many of the row reach their scores."""
    for place in range(start, end):
        count, goal = np.int32(0), goals[place]
        for j in range(WIDTH):
            count += np.int32(row[j] >= goal)
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
