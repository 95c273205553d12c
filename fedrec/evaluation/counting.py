"""Ranking by counting: all items of some users, or some items at a time of all users."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from fedrec.compute.device import to_array
from fedrec.evaluation.counting_numba import WIDTH, count_reaching
from fedrec.evaluation.ranking import Part, Placed, Scores, check_nan, mask_of
from fedrec.evaluation.scorer import Block, UserScorer
from fedrec.personalization.base import Branches, View
from fedrec.ragged import Ragged, empty_rows
from fedrec.types import FloatArray, IntArray, Shard

_GROUP = 1 << 15
"""Users that share what the scores of items cost."""

_CACHED_USERS = 4096
"""Users whose scores of `WIDTH` items are computed and ranked together."""

_Ranked: TypeAlias = tuple[Ragged, Ragged, Ragged]
"""One row per user each: the validation, the test and the target items that are ranked."""

_Strip: TypeAlias = tuple[int, int, FloatArray, tuple[FloatArray, ...]]
"""Scores, float [v, b, c]: the first item, the first user, they, and the branch to be mixed in."""


def place_by_rows(
    views: Mapping[View, Scores],
    train: Ragged,
    valid: Ragged,
    test: Ragged,
    k: int,
    targets: Ragged | None = None,
) -> Placed:
    """Rank the held-out items and the target items of some users, and list what stands first.

    It gives what `fedrec.evaluation.ranking.place_by_definition` gives.

    Args:
        views: per view, float [b, n_items].
        train: one row per user: its train items, sorted; likewise ``valid`` and ``test``.
        valid: its validation items.
        test: its test items.
        k: length of the top lists; 0 for none.
        targets: one row per user: target items, none of them among its others; None: there are
            none.

    Raises:
        NumericError: If a score is NaN.
    """
    ranks: dict[View, Mapping[Part, IntArray]] = {}
    of_targets: dict[View, IntArray] = {}
    top: IntArray = np.empty((len(test), 0), np.int64)
    ranked = valid, test, empty_rows(len(test)) if targets is None else targets
    for view, of_view in views.items():
        scores = _array(of_view)[np.newaxis]
        goals = [scores[:, items.owners(), items.values] for items in ranked]
        length = k if view == "mixed" else 0
        placed = _counted([view], train, ranked, goals, length, [(0, 0, scores, ())])
        ranks[view] = placed.ranks[view]
        of_targets |= placed.targets
        top = placed.top if view == "mixed" else top
    return Placed(ranks, top, of_targets)


def place_by_columns(
    scorer: UserScorer, shard: Shard, k: int, targets: Ragged | None = None
) -> Iterator[Placed]:
    """Rank the held-out items and the target items of all users, some items at a time.

    It gives what `place_by_rows` gives, and users share what the scores of an item cost.

    Args:
        scorer: the scores; `UserScorer.by_columns`.
        shard: the users and their items.
        k: length of the top lists; 0 for none.
        targets: one row per user, see `place_by_rows`.

    Yields:
        Where the items of some users stand, user after user.

    Raises:
        NumericError: If a score is NaN.
    """
    views = scorer.task.personalization.views
    targets = empty_rows(shard.n_users) if targets is None else targets
    for first in range(0, shard.n_users, _GROUP):
        users = np.arange(first, min(first + _GROUP, shard.n_users), dtype=np.int64)
        train = shard.train.take(users)
        ranked = shard.valid.take(users), shard.test.take(users), targets.take(users)
        goals = _goals(scorer, users, ranked)
        blocks = scorer.blocks(users, _CACHED_USERS)
        strips = _swept(blocks, views, shard.n_items)
        yield _counted(views, train, ranked, goals, k, strips)


def _swept(blocks: Sequence[Block], views: Sequence[View], n_items: int) -> Iterator[_Strip]:
    """Yield the scores of all users for some items at a time."""
    for start in range(0, n_items, WIDTH):
        items = torch.arange(start, min(start + WIDTH, n_items))
        for block in blocks:
            scores = block.rank(items)
            if isinstance(scores, Branches):
                branch = tuple(_array(part) for part in (scores.sums, scores.scale, scores.share))
                yield start, block.place.start, _array(scores.base)[np.newaxis], branch
            else:
                stacked = np.stack([_array(scores[view]) for view in views])
                yield start, block.place.start, stacked, ()


def _counted(
    views: Sequence[View],
    train: Ragged,
    ranked: _Ranked,
    goals: Sequence[FloatArray],
    k: int,
    strips: Iterable[_Strip],
) -> Placed:
    """Count how many items reach each ranked item of some users; list what stands first.

    Args:
        views: The views, ``mixed`` first.
        train: One row per user.
        ranked: Likewise, the validation, the test and the target items.
        goals: The scores of each of them, float [v, n].
        k: Length of the top lists, by the first view.
        strips: Of all users, item after item.

    Raises:
        NumericError: If a score is NaN.
    """
    valid, test, targets = ranked
    both = mask_of("test", train, valid)
    excluded, test_items = (
        (items.offsets, items.values, items.offsets[:-1].copy()) for items in (both, test)
    )
    goals = tuple(map(_array, goals))
    counts = tuple(np.zeros(each.shape, np.int64) for each in goals)
    best = np.empty((len(test), k), goals[0].dtype)
    top = np.full((len(test), k), -1, np.int64)
    lists = best, top, np.where((test.lengths > 0) & (k > 0), 0, -1)
    diverged, nothing = np.zeros(len(valid), np.bool_), best.reshape(-1)[:0]
    no_branch = nothing.reshape(0, 0, 0), nothing, nothing.reshape(0, 1)
    for first_item, first_user, scores, branch in strips:
        count_reaching(
            scores,
            branch or no_branch,
            first_item,
            first_user,
            excluded,
            valid.offsets,
            test_items,
            targets.offsets,
            goals,
            counts,
            lists,
            diverged,
        )
    check_nan(diverged)
    ranks: dict[View, dict[Part, IntArray]] = {
        view: {
            "valid": _ranks(valid, counts[0][at], goals[0][at]),
            "test": _ranks(test, counts[1][at], goals[1][at]),
        }
        for at, view in enumerate(views)
    }
    of_targets = {
        view: _ranks_among_all(targets, counts[2][at], goals[2][at])
        for at, view in enumerate(views)
    }
    return Placed(ranks, top, of_targets)


def _array(scores: Scores) -> FloatArray:
    """Return scores in one layout, for which the machine code is compiled once."""
    if isinstance(scores, Tensor):
        return to_array(scores.contiguous())
    return np.require(scores, requirements=["C", "W"])


def _goals(scorer: UserScorer, users: IntArray, ranked: _Ranked) -> list[FloatArray]:
    """Return the scores of some items, float [v, n] of each part.

    They are computed with the items of the same columns, so that they have the bits of the sweep.
    """
    owners = np.concatenate([part.owners() for part in ranked])
    items = np.concatenate([part.values for part in ranked])
    kind = str(scorer.params["item"].dtype).removeprefix("torch.")
    views = scorer.task.personalization.views
    goals = np.empty((len(views), len(items)), kind)
    columns = items // WIDTH
    by_column = np.lexsort((owners, columns))
    starts = np.flatnonzero(np.diff(columns[by_column], prepend=-1))
    for chosen in np.split(by_column, starts)[1:]:
        first = int(columns[chosen[0]]) * WIDTH
        strip = torch.arange(first, min(first + WIDTH, len(scorer.everything)))
        rows, row = np.unique(owners[chosen], return_inverse=True)
        scores = scorer.blocks(users[rows], len(rows))[0].views(strip)
        for at, view in enumerate(views):
            goals[at, chosen] = _array(scores[view])[row, items[chosen] - first]
    return np.split(goals, np.cumsum([len(part.values) for part in ranked[:-1]]), axis=1)


def _ranks(held_out: Ragged, counts: IntArray, scores: FloatArray) -> IntArray:
    """Return the rank of each item: how many others score as high, and its place in its row."""
    if held_out.lengths.max(initial=0) < 2:
        return np.asarray(counts + 1)
    owners, ranks = held_out.owners(), np.empty_like(counts)
    by_score = _by_score(owners, scores)
    place = np.arange(len(counts)) - held_out.offsets[:-1][owners]
    ranks[by_score] = counts[by_score] + place + 1
    return ranks


def _ranks_among_all(targets: Ragged, counts: IntArray, scores: FloatArray) -> IntArray:
    """Return the rank of each item, which was counted with the others of its row.

    Of equal ones in a row, which all have been counted, the first has the best rank.
    """
    by_score = _by_score(targets.owners(), scores)
    keys = targets.owners()[by_score], scores[by_score]
    differs = [each[1:] != each[:-1] for each in keys]
    is_last = np.append(differs[0] | differs[1], True)[: len(counts)]
    places, ranks = np.arange(len(counts)), np.empty_like(counts)
    last_of_equal = places[is_last][np.cumsum(is_last) - is_last]
    ranks[by_score] = counts[by_score] + places - last_of_equal
    return ranks


def _by_score(owners: IntArray, scores: FloatArray) -> IntArray:
    """Return the order of values by row and descending score, equal ones as they stand."""
    among_all = np.empty(len(scores), np.int64)
    among_all[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return np.argsort(owners * len(scores) + among_all)  # faster than np.lexsort
