"""Ranking by counting: all items of some users, or some items at a time of all users."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from fedrec.evaluation.counting_numba import WIDTH, count_reaching
from fedrec.evaluation.ranking import Part, Placed, Scores, check_nan, mask_of
from fedrec.evaluation.scorer import UserScorer
from fedrec.personalization.base import View
from fedrec.types import FloatArray, IntArray, Ragged, Shard

__all__ = ["place_by_columns", "place_by_rows"]

_GROUP = 1 << 15
"""Users that share what the scores of items cost."""

_CACHED_USERS = 4096
"""Users whose scores of `WIDTH` items are computed and ranked together."""


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
    arrays = {view: _array(scores) for view, scores in views.items()}
    targets = {
        view: (scores[valid.owners(), valid.values], scores[test.owners(), test.values])
        for view, scores in arrays.items()
    }
    counts = _Counts(train, valid, test, targets, k)
    counts.add(arrays)
    return counts.placed()


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
    for first in range(0, shard.n_users, _GROUP):
        users = np.arange(first, min(first + _GROUP, shard.n_users), dtype=np.int64)
        train, valid, test = (part.take(users) for part in (shard.train, shard.valid, shard.test))
        counts = _Counts(train, valid, test, _targets(scorer, users, valid, test), k)
        blocks = scorer.blocks(users, _CACHED_USERS)
        for start in range(0, shard.n_items, WIDTH):
            items = torch.arange(start, min(start + WIDTH, shard.n_items))
            for block in blocks:
                views = {view: _array(scores) for view, scores in block.views(items).items()}
                counts.add(views, start, block.place.start)
        yield counts.placed()


class _Counts:
    """How many items reach each held-out item of some users, and their top lists.

    Args:
        train: one row per user; likewise ``valid`` and ``test``.
        targets: per view the scores of the validation and of the test items.
        k: length of the top lists.
    """

    def __init__(
        self,
        train: Ragged,
        valid: Ragged,
        test: Ragged,
        targets: Mapping[View, tuple[FloatArray, FloatArray]],
        k: int,
    ) -> None:
        excluded = mask_of("test", train, valid)
        self._excluded = excluded.offsets, excluded.values, excluded.offsets[:-1].copy()
        self._valid, self._test = valid, test
        self._test_items = test.offsets, test.values, test.offsets[:-1].copy()
        self._targets = targets
        self._counts = {
            view: (np.zeros(len(valid.values), np.int64), np.zeros(len(test.values), np.int64))
            for view in targets
        }
        self._lists = {
            view: _empty_lists(test, k if view == "mixed" else 0, of[0].dtype)
            for view, of in targets.items()
        }
        self._diverged = np.zeros(len(valid), np.bool_)

    def add(
        self, views: Mapping[View, FloatArray], first_item: int = 0, first_user: int = 0
    ) -> None:
        """Count scores, float [b, c] per view, of some users, and of the items that come next."""
        last = list(views)[-1]
        for view, scores in views.items():
            count_reaching(
                scores,
                first_item,
                first_user,
                self._excluded,
                self._valid.offsets,
                self._test_items,
                self._targets[view],
                self._counts[view],
                self._lists[view],
                self._diverged,
                view == last,
            )

    def placed(self) -> Placed:
        """Return where the held-out items of all users stand; raise `NumericError` for NaN."""
        check_nan(self._diverged)
        ranks: dict[View, dict[Part, IntArray]] = {
            view: {"valid": _ranks(self._valid, valid), "test": _ranks(self._test, test)}
            for view, (valid, test) in self._counts.items()
        }
        return Placed(ranks, self._lists["mixed"][1])


def _empty_lists(test: Ragged, k: int, kind: np.dtype) -> tuple[FloatArray, IntArray, IntArray]:
    lengths = np.where((test.lengths > 0) & (k > 0), 0, -1)
    return np.empty((len(test), k), kind), np.full((len(test), k), -1, np.int64), lengths


def _array(scores: Scores) -> FloatArray:
    """Return scores in one layout, for which the machine code is compiled once."""
    if isinstance(scores, Tensor):
        return scores.detach().cpu().contiguous().numpy()
    return np.require(scores, requirements=["C", "W"])


def _targets(
    scorer: UserScorer, users: IntArray, valid: Ragged, test: Ragged
) -> dict[View, tuple[FloatArray, FloatArray]]:
    """Return the scores of the held-out items per view: float per validation and per test item.

    They are computed with the items of the same columns, so that they have the bits of the sweep.
    """
    owners = np.concatenate([valid.owners(), test.owners()])
    items = np.concatenate([valid.values, test.values])
    kind = str(scorer.params["item"].dtype).removeprefix("torch.")
    targets = {view: np.empty(len(items), kind) for view in scorer.task.personalization.views}
    columns = items // WIDTH
    by_column = np.lexsort((owners, columns))
    starts = np.flatnonzero(np.diff(columns[by_column], prepend=-1))
    for chosen in np.split(by_column, starts)[1:]:
        first = int(columns[chosen[0]]) * WIDTH
        strip = torch.arange(first, min(first + WIDTH, len(scorer.everything)))
        rows, row = np.unique(owners[chosen], return_inverse=True)
        for view, scores in scorer.blocks(users[rows], len(rows))[0].views(strip).items():
            targets[view][chosen] = _array(scores)[row, items[chosen] - first]
    cut = len(valid.values)
    return {view: (values[:cut], values[cut:]) for view, values in targets.items()}


def _ranks(held_out: Ragged, counts: IntArray) -> IntArray:
    """Return the sorted ranks of each user's items; the more score at least as high, the later."""
    owners = held_out.owners()
    place = np.arange(len(owners)) - held_out.offsets[:-1][owners]
    return np.asarray(counts[np.lexsort((counts, owners))] + place + 1)
