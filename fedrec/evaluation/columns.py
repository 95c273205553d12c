"""Ranking some items at a time for all users, where users share what the scores of items cost."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from fedrec.compute.operations import MM_ROWS
from fedrec.evaluation.columns_numba import WIDTH, advance, count_columns
from fedrec.evaluation.ranking import Placed, check_nan
from fedrec.evaluation.scorer import GroupScorer, UserScorer
from fedrec.personalization.base import View
from fedrec.types import FloatArray, IntArray, Ragged, Shard

__all__ = ["place_by_columns"]

_GROUP = 1 << 15
"""Users that share the scores of items: 16 MiB of float32 scores of `WIDTH` items."""

_CACHED_USERS = 4096
"""Users whose scores of `WIDTH` items are ranked while they are in the cache."""


def place_by_columns(scorer: UserScorer, shard: Shard, k: int) -> Iterator[dict[View, Placed]]:
    """Rank the held-out items of all users, as `fedrec.evaluation.ranking.place` does.

    Args:
        scorer: the scores; `UserScorer.by_columns`.
        shard: the users and their items.
        k: length of the top lists of the view ``mixed``; 0 for none.

    Yields:
        Per view where the held-out items of some users stand, user after user.

    Raises:
        NumericError: If a score is NaN.
    """
    for first in range(0, shard.n_users, _GROUP):
        users = np.arange(first, min(first + _GROUP, shard.n_users), dtype=np.int64)
        yield _place_group(scorer, shard, users, k)


def _place_group(scorer: UserScorer, shard: Shard, users: IntArray, k: int) -> dict[View, Placed]:
    train, valid, test = (part.take(users) for part in (shard.train, shard.valid, shard.test))
    targets = _targets(scorer, users, valid, test)
    counts = {view: tuple(np.zeros(len(t), np.int64) for t in of) for view, of in targets.items()}
    bounds = [(part.offsets[:-1].copy(), part.offsets[:-1].copy()) for part in (train, valid, test)]
    kind = next(iter(targets.values()))[0].dtype
    best, listed = np.empty((len(users), k), kind), np.full((len(users), k), -1, np.int64)
    filled = np.where(test.lengths > 0, 0, -1)
    no_best, no_list = best[:, :0], listed[:, :0]
    diverged = np.zeros(len(users), np.int32)
    group = scorer.group(users)
    for start in range(0, shard.n_items, WIDTH):
        items = torch.arange(start, min(start + WIDTH, shard.n_items))
        for part, (begin, end) in zip((train, valid, test), bounds, strict=True):
            advance(part.offsets, part.values, start + WIDTH, begin, end)
        for low in range(0, len(users), _CACHED_USERS):
            for view, scores in group(slice(low, low + _CACHED_USERS), items).items():
                lists = (best, listed) if view == "mixed" else (no_best, no_list)
                count_columns(
                    scores.contiguous().numpy(),
                    start,
                    low,
                    (*bounds[0], train.values),
                    (*bounds[1], valid.values, valid.offsets),
                    (*bounds[2], test.values, test.offsets),
                    targets[view],
                    counts[view],
                    *lists,
                    filled,
                    diverged,
                )
    check_nan(int(np.count_nonzero(diverged)), len(users))
    return {
        view: Placed(
            {"valid": _ranks(valid, counted[0]), "test": _ranks(test, counted[1])},
            listed if view == "mixed" else no_list,
        )
        for view, counted in counts.items()
    }


def _targets(
    scorer: UserScorer, users: IntArray, valid: Ragged, test: Ragged
) -> dict[View, tuple[FloatArray, FloatArray]]:
    """Return the scores of the held-out items per view: float per validation and per test item.

    They are computed as in the sweep, `WIDTH` items at a time, so that they have its bits.
    """
    targets: dict[View, tuple[list[FloatArray], list[FloatArray]]] = {}
    for first in range(0, len(users), MM_ROWS):
        rows = np.arange(first, min(first + MM_ROWS, len(users)))
        held_out = valid.take(rows), test.take(rows)
        wanted = np.unique(np.concatenate([part.values for part in held_out]))
        scores = _scores(scorer.group(users[rows]), slice(0, len(rows)), wanted)
        for view, of_view in scores.items():
            for part, lists in zip(held_out, targets.setdefault(view, ([], [])), strict=True):
                lists.append(of_view[part.owners(), np.searchsorted(wanted, part.values)])
    return {v: (np.concatenate(of[0]), np.concatenate(of[1])) for v, of in targets.items()}


def _scores(group: GroupScorer, place: slice, wanted: IntArray) -> dict[View, FloatArray]:
    """Return the scores of some items, float [b, items], filled up to full widths."""
    width = -(-max(len(wanted), 1) // WIDTH) * WIDTH
    items = torch.from_numpy(np.resize(wanted if len(wanted) else np.zeros(1, np.int64), width))
    parts = [group(place, part) for part in torch.split(items, WIDTH)]
    return {
        view: np.concatenate([part[view].numpy() for part in parts], axis=1) for view in parts[0]
    }


def _ranks(held_out: Ragged, counts: IntArray) -> IntArray:
    """Return the sorted ranks of each user's items; the more score at least as high, the later."""
    owners = held_out.owners()
    place = np.arange(len(owners)) - held_out.offsets[:-1][owners]
    return np.asarray(counts[np.lexsort((counts, owners))] + place + 1)
