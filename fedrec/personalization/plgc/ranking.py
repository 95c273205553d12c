"""The scores of PLGC for the catalogue, with both branches and with each alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from fedrec.compute.operations import bag_sum
from fedrec.compute.padded import PaddedRows
from fedrec.personalization.base import FrozenItems, Ranking, View
from fedrec.types import IntArray

if TYPE_CHECKING:
    from fedrec.compute.batch import Tensors

__all__ = ["CatalogueSimilarity", "power", "rank_similarity", "rank_table"]

COLUMNS = 128
"""Items of the catalogue whose similarities are held at once."""


class CatalogueSimilarity:
    """The similarity branch of some users for the catalogue.

    The similarity of two items is the same for all users, so it is computed once for the items
    that stand in some history and `COLUMNS` items of the catalogue; every user adds up the rows
    of its own history. Holds float [items in histories, `COLUMNS`].

    Args:
        frozen_items: the frozen table and the histories.
        users: int64 [g], the user rows.
        beta: exponent of the similarity.
    """

    def __init__(self, frozen_items: FrozenItems, users: IntArray, beta: int) -> None:
        assert frozen_items.unit_item_vectors is not None
        self._z, self._beta = frozen_items.unit_item_vectors, beta
        histories = frozen_items.history.take(users)
        occurs = np.zeros(len(self._z), bool)
        occurs[histories.values] = True
        rows = np.where(occurs, np.cumsum(occurs) - 1, -1)
        self._row_of_item = torch.from_numpy(rows)
        self._rows = PaddedRows(self._z[torch.from_numpy(np.flatnonzero(occurs))])
        self._offsets = histories.offsets
        self._index = torch.from_numpy(rows[histories.values])
        scale = torch.from_numpy(np.maximum(histories.lengths, 1) ** -0.5)
        self._scale = scale.to(self._z.dtype).unsqueeze(-1)
        self._items: torch.Tensor | None = None
        self._kappa: torch.Tensor | None = None

    def branch(self, users: slice, items: torch.Tensor) -> torch.Tensor:
        """Return the local branch.

        Args:
            users: some of the users, by their place in ``users``.
            items: int64 [c].

        Returns:
            float [b, c].
        """
        first, last, _ = users.indices(len(self._scale))
        begin, end = int(self._offsets[first]), int(self._offsets[last])
        index = self._index[begin:end]
        offsets = torch.from_numpy(self._offsets[first : last + 1] - begin)
        parts = [
            bag_sum(self._similarities(columns), index, offsets)[:, : len(columns)]
            for columns in torch.split(items, COLUMNS)
        ]
        branch = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return branch.mul_(self._scale[first:last])

    def _similarities(self, items: torch.Tensor) -> torch.Tensor:
        """Return float [items in histories, `COLUMNS`], the same array while ``items`` stay."""
        if self._kappa is not None and self._items is not None and torch.equal(self._items, items):
            return self._kappa
        right = self._z.new_zeros((COLUMNS, self._z.shape[1]))
        right[: len(items)] = self._z[items]
        kappa = self._rows.mapped(right.T, lambda cosine: power(cosine.clamp_min_(0.0), self._beta))
        rows = self._row_of_item[items]
        column = torch.nonzero(rows >= 0).squeeze(1)
        kappa[rows[column], column] = 0.0
        self._items, self._kappa = items, kappa
        return kappa


def power(x: torch.Tensor, exponent: int) -> torch.Tensor:
    """Raise each element in place, by products, which round alike in every place of an array.

    Args:
        x: float [...], changed.
        exponent: 1 or more.
    """
    if exponent == 2:
        return x.mul_(x)
    factor = x.clone() if exponent > 1 else x
    for _ in range(exponent - 1):
        x.mul_(factor)
    return x


def rank_similarity(
    frozen_items: FrozenItems, local: Tensors, ranking: Ranking, tau: float, per_row: bool
) -> dict[View, torch.Tensor]:
    """Return the scores of the similarity branch per view, float [b, c]."""
    base, similarity = ranking.scores(), ranking.prepared
    assert isinstance(similarity, CatalogueSimilarity)
    branch = similarity.branch(ranking.place, ranking.items)
    branch = branch if tau == 1 else branch.mul_(tau)
    share = local["lambda"].unsqueeze(-1)
    if per_row:
        share = share * _seen(frozen_items, ranking).to(share.dtype)
    return {"mixed": (share * branch).add_(base), "global": base, "local": branch}


def rank_table(
    frozen_items: FrozenItems, local: Tensors, ranking: Ranking
) -> dict[View, torch.Tensor]:
    """Return the scores of the table branch per view, float [b, n_items]."""
    base = ranking.scores()
    users, items, at = _positive_pairs(frozen_items, ranking.users)
    rows = frozen_items.table[torch.from_numpy(items)]
    local_rows = local["residual"][torch.from_numpy(at)].add_(rows)
    share = local["lambda"][torch.from_numpy(users)].unsqueeze(-1)
    alone = ranking.patched(base, users, items, local_rows)
    mixed = local_rows.mul_(share).add_((1 - share) * rows)
    return {
        "mixed": ranking.patched(base, users, items, mixed),
        "global": base,
        "local": alone,
    }


def _seen(frozen_items: FrozenItems, ranking: Ranking) -> torch.Tensor:
    """Return whether each item is among the positives of each user's client, bool [b, c]."""
    wanted, place = np.unique(ranking.items.numpy(), return_inverse=True)
    column = np.full(len(frozen_items.table), -1, np.int64)
    column[wanted] = np.arange(len(wanted))
    users, items, _ = _positive_pairs(frozen_items, ranking.users)
    at = column[items]
    seen = np.zeros((len(ranking.users), len(wanted)), bool)
    seen[users[at >= 0], at[at >= 0]] = True
    return torch.from_numpy(seen[:, place])


def _positive_pairs(
    frozen_items: FrozenItems, users: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Return the positives of the clients of some users: place of the user, item, positive row."""
    clients = frozen_items.clients[users]
    owners = np.repeat(np.arange(len(users)), frozen_items.positives.lengths[clients])
    at = frozen_items.positives.positions(clients)
    return owners, frozen_items.positives.values[at], at
