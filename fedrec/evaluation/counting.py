"""Ranking by counting: all items of some users, or some items at a time of all users."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fedrec.evaluation.counting_numba import WIDTH, count_reaching
from fedrec.evaluation.ranking import Part, Placed, Scores, check_nan, mask_of
from fedrec.evaluation.scorer import UserScorer
from fedrec.personalization.base import Branches, View
from fedrec.types import FloatArray, IntArray, Ragged, Shard

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
    placed: dict[View, Placed] = {}
    for view, of_view in views.items():
        scores = _array(of_view)[np.newaxis]
        targets = scores[:, valid.owners(), valid.values], scores[:, test.owners(), test.values]
        counts = _Counts([view], train, valid, test, targets, k if view == "mixed" else 0)
        counts.add(scores)
        placed[view] = counts.placed()
    return Placed(
        {view: of_view.ranks[view] for view, of_view in placed.items()}, placed["mixed"].top
    )


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
        counts = _Counts(views, train, valid, test, targets, k)
        blocks = scorer.blocks(users, _CACHED_USERS)
        for start in range(0, shard.n_items, WIDTH):
            items = torch.arange(start, min(start + WIDTH, shard.n_items))
            for block in blocks:
                scores = block.rank(items)
                if isinstance(scores, Branches):
                    branch = [_array(part) for part in (scores.sums, scores.scale, scores.share)]
                    counts.add(_array(scores.base)[np.newaxis], start, block.place.start, branch)
                else:
                    stacked = np.stack([_array(scores[view]) for view in views])
                    counts.add(stacked, start, block.place.start)
        yield counts.placed()


class _Counts:
    """How many items reach each held-out item of some users, and their top lists.

    Args:
        views: the views, ``mixed`` first.
        train: one row per user; likewise ``valid`` and ``test``.
        targets: the scores of the validation and of the test items, float [v, n].
        k: length of the top lists, by the first view.
    """

    def __init__(
        self,
        views: Sequence[View],
        train: Ragged,
        valid: Ragged,
        test: Ragged,
        targets: tuple[FloatArray, FloatArray],
        k: int,
    ) -> None:
        excluded = mask_of("test", train, valid)
        self._views, self._valid, self._test = views, valid, test
        self._excluded = excluded.offsets, excluded.values, excluded.offsets[:-1].copy()
        self._test_items = test.offsets, test.values, test.offsets[:-1].copy()
        self._targets = _array(targets[0]), _array(targets[1])
        self._counts = tuple(np.zeros(scores.shape, np.int64) for scores in self._targets)
        lengths = np.where((test.lengths > 0) & (k > 0), 0, -1)
        best = np.empty((len(test), k), targets[0].dtype)
        self._lists = best, np.full((len(test), k), -1, np.int64), lengths
        self._diverged = np.zeros(len(valid), np.bool_)
        nothing = best.reshape(-1)[:0]
        self._no_branch = nothing.reshape(0, 0, 0), nothing, nothing.reshape(0, 1)

    def add(
        self,
        scores: FloatArray,
        first_item: int = 0,
        first_user: int = 0,
        branch: Sequence[FloatArray] = (),
    ) -> None:
        """Count scores, float [v, b, c], of some users and the items that come next."""
        count_reaching(
            scores,
            tuple(branch) or self._no_branch,
            first_item,
            first_user,
            self._excluded,
            self._valid.offsets,
            self._test_items,
            self._targets,
            self._counts,
            self._lists,
            self._diverged,
        )

    def placed(self) -> Placed:
        """Return where the held-out items of all users stand; raise `NumericError` for NaN."""
        check_nan(self._diverged)
        valid, test = self._counts
        ranks: dict[View, dict[Part, IntArray]] = {
            view: {"valid": _ranks(self._valid, valid[at]), "test": _ranks(self._test, test[at])}
            for at, view in enumerate(self._views)
        }
        return Placed(ranks, self._lists[1])


def _array(scores: Scores) -> FloatArray:
    """Return scores in one layout, for which the machine code is compiled once."""
    if isinstance(scores, Tensor):
        return scores.detach().cpu().contiguous().numpy()
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


def _ranks(held_out: Ragged, counts: IntArray) -> IntArray:
    """Return the sorted ranks of each user's items; the more score at least as high, the later."""
    owners = held_out.owners()
    place = np.arange(len(owners)) - held_out.offsets[:-1][owners]
    return np.asarray(counts[np.lexsort((counts, owners))] + place + 1)
