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
from fedrec.ragged import Ragged
from fedrec.types import FloatArray, IntArray, Shard

_GROUP = 1 << 15
"""Users that share what the scores of items cost."""

_CACHED_USERS = 4096
"""Users whose scores of `WIDTH` items are computed and ranked together."""

_Strip: TypeAlias = tuple[int, int, FloatArray, tuple[FloatArray, ...]]
"""Scores, float [v, b, c]: the first item, the first user, they, and the branch to be mixed in."""


def place_by_rows(
    views: Mapping[View, Scores], train: Ragged, valid: Ragged, test: Ragged, k: int
) -> Placed:
    """Rank the held-out items of some users, and list what stands first.

    It gives what `fedrec.evaluation.ranking.place_by_definition` gives.

    Args:
        views: per view, float [b, n_items].
        train: one row per user: its train items, sorted; likewise ``valid`` and ``test``.
        valid: its validation items.
        test: its test items.
        k: length of the top lists; 0 for none.

    Raises:
        NumericError: If a score is NaN.
    """
    ranks: dict[View, Mapping[Part, IntArray]] = {}
    top: IntArray = np.empty((len(test), 0), np.int64)
    for view, of_view in views.items():
        scores = _array(of_view)[np.newaxis]
        targets = scores[:, valid.owners(), valid.values], scores[:, test.owners(), test.values]
        length = k if view == "mixed" else 0
        placed = _counted([view], train, valid, test, targets, length, [(0, 0, scores, ())])
        ranks[view] = placed.ranks[view]
        top = placed.top if view == "mixed" else top
    return Placed(ranks, top)


def place_by_columns(scorer: UserScorer, shard: Shard, k: int) -> Iterator[Placed]:
    """Rank the held-out items of all users, some items at a time.

    It gives what `place_by_rows` gives, and users share what the scores of an item cost.

    Args:
        scorer: the scores; `UserScorer.by_columns`.
        shard: the users and their items.
        k: length of the top lists; 0 for none.

    Yields:
        Where the held-out items of some users stand, user after user.

    Raises:
        NumericError: If a score is NaN.
    """
    views = scorer.task.personalization.views
    for first in range(0, shard.n_users, _GROUP):
        users = np.arange(first, min(first + _GROUP, shard.n_users), dtype=np.int64)
        train, valid, test = (part.take(users) for part in (shard.train, shard.valid, shard.test))
        targets = _targets(scorer, users, valid, test)
        blocks = scorer.blocks(users, _CACHED_USERS)
        yield _counted(views, train, valid, test, targets, k, _swept(blocks, views, shard.n_items))


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
    valid: Ragged,
    test: Ragged,
    targets: tuple[FloatArray, FloatArray],
    k: int,
    strips: Iterable[_Strip],
) -> Placed:
    """Count how many items reach each held-out item of some users; list what stands first.

    Args:
        views: The views, ``mixed`` first.
        train: One row per user; likewise ``valid`` and ``test``.
        valid: The validation items.
        test: The test items.
        targets: The scores of the validation and of the test items, float [v, n].
        k: Length of the top lists, by the first view.
        strips: Of all users, item after item.

    Raises:
        NumericError: If a score is NaN.
    """
    both = mask_of("test", train, valid)
    excluded, test_items = (
        (items.offsets, items.values, items.offsets[:-1].copy()) for items in (both, test)
    )
    targets = _array(targets[0]), _array(targets[1])
    counts = np.zeros(targets[0].shape, np.int64), np.zeros(targets[1].shape, np.int64)
    best = np.empty((len(test), k), targets[0].dtype)
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
            targets,
            counts,
            lists,
            diverged,
        )
    check_nan(diverged)
    ranks: dict[View, dict[Part, IntArray]] = {
        view: {
            "valid": _ranks(valid, counts[0][at], targets[0][at]),
            "test": _ranks(test, counts[1][at], targets[1][at]),
        }
        for at, view in enumerate(views)
    }
    return Placed(ranks, top)


def _array(scores: Scores) -> FloatArray:
    """Return scores in one layout, for which the machine code is compiled once."""
    if isinstance(scores, Tensor):
        return to_array(scores.contiguous())
    return np.require(scores, requirements=["C", "W"])


def _targets(
    scorer: UserScorer, users: IntArray, valid: Ragged, test: Ragged
) -> tuple[FloatArray, FloatArray]:
    """Return the scores of the held-out items, float [v, n] of validation and of test items.

    They are computed with the items of the same columns, so that they have the bits of the sweep.
    """
    owners = np.concatenate([valid.owners(), test.owners()])
    items = np.concatenate([valid.values, test.values])
    kind = str(scorer.params["item"].dtype).removeprefix("torch.")
    views = scorer.task.personalization.views
    targets = np.empty((len(views), len(items)), kind)
    columns = items // WIDTH
    by_column = np.lexsort((owners, columns))
    starts = np.flatnonzero(np.diff(columns[by_column], prepend=-1))
    for chosen in np.split(by_column, starts)[1:]:
        first = int(columns[chosen[0]]) * WIDTH
        strip = torch.arange(first, min(first + WIDTH, len(scorer.everything)))
        rows, row = np.unique(owners[chosen], return_inverse=True)
        scores = scorer.blocks(users[rows], len(rows))[0].views(strip)
        for at, view in enumerate(views):
            targets[at, chosen] = _array(scores[view])[row, items[chosen] - first]
    return targets[:, : len(valid.values)], targets[:, len(valid.values) :]


def _ranks(held_out: Ragged, counts: IntArray, scores: FloatArray) -> IntArray:
    """Return the rank of each item: how many others score as high, and its place in its row."""
    if held_out.lengths.max(initial=0) < 2:
        return np.asarray(counts + 1)
    owners, everything = held_out.owners(), np.arange(len(counts))
    among_all, ranks = np.empty_like(counts), np.empty_like(counts)
    among_all[np.argsort(-scores, kind="stable")] = everything
    by_score = np.argsort(owners * len(counts) + among_all)  # faster than np.lexsort
    ranks[by_score] = counts[by_score] + everything - held_out.offsets[:-1][owners] + 1
    return ranks
