"""What a personalization declares: how a client's own item vectors or scores differ from all's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
import torch

from fedrec.compute.operations import gather
from fedrec.plugins import Plugin
from fedrec.types import FloatArray, IntArray, ParamSpec, Ragged, Shard

if TYPE_CHECKING:
    from fedrec.compute.batch import PairBatch, Tensors

__all__ = ["Forward", "FrozenItems", "Personalization", "Ranking", "View"]


View: TypeAlias = Literal["mixed", "global", "local"]
"""A user's score: the method's own, with the global branch alone, with the local branch alone."""


@dataclass(frozen=True, slots=True)
class FrozenItems:
    """The frozen global table of a round, and whom it is looked at for.

    Args:
        table: float [n_items, d], the frozen global item table.
        unit_item_vectors: what `Personalization.directions` made of it.
        history: one row per user row: the train items that a kernel may look at.
        positives: one row per client row: the union of its users' train items, sorted.
        clients: int64 [u], the client row of each user row.
    """

    table: torch.Tensor
    unit_item_vectors: torch.Tensor | None
    history: Ragged
    positives: Ragged
    clients: IntArray


class Forward(Protocol):
    """The model at the current parameters, as a function of the item vectors of the pairs."""

    def score(self, rows: torch.Tensor) -> torch.Tensor:
        """float [q, d] -> float [q]: the score of each pair."""
        ...

    def features(self, rows: torch.Tensor) -> torch.Tensor:
        """float [q, d] -> float [q, h]: the input of the model's last linear layer."""
        ...


class Ranking(Protocol):
    """The model at evaluation, for some users and items."""

    @property
    def users(self) -> IntArray:
        """int64 [b], the user rows."""
        ...

    @property
    def place(self) -> slice:
        """Where they stand among the users that `Personalization.prepare_ranking` was given."""
        ...

    @property
    def items(self) -> torch.Tensor:
        """int64 [c], the items that are scored: all, unless `Personalization.by_columns`."""
        ...

    @property
    def prepared(self) -> object:
        """What `Personalization.prepare_ranking` returned."""
        ...

    def scores(self) -> torch.Tensor:
        """float [b, c]: the model's scores with the global table."""
        ...

    def patched(
        self,
        base: torch.Tensor,
        block_users: IntArray,
        items: IntArray,
        rows: torch.Tensor,
    ) -> torch.Tensor:
        """float [b, n_items]: what `scores` gave, with other item vectors for some pairs.

        They count wherever they stand: also in the histories of a model that looks at them.
        Pairs are sorted by row of the block, then by item.
        """
        ...


class Personalization(Plugin):
    """Base of all personalizations; by itself it changes nothing.

    It never knows the strategy. ``work`` is the working copy of the touched rows (trained and
    uploaded), ``frozen`` the same rows of the global table as the round began: a view, no gradient.
    """

    views: ClassVar[tuple[View, ...]] = ("mixed",)

    def state(self, dim: int) -> Mapping[str, ParamSpec]:
        """The local parameters it adds, none by default.

        Args:
            dim: width of the item table.
        """
        return {}

    @property
    def random_rows(self) -> int:
        """Random rows per user and epoch that it wants among the touched ones."""
        return 0

    def row_cost(self, history: IntArray) -> FloatArray:
        """What a touched row of each user costs to train, 1 for the model alone.

        Clients are dealt to nodes by it; it changes no result.

        Args:
            history: int64 [u], the number of train items of each user.
        """
        return np.ones(len(history))

    def unit_item_vectors(self, table: torch.Tensor) -> torch.Tensor | None:
        """What it needs of the whole frozen table, float [n_items, d]; once per message."""
        return None

    def history(self, shard: Shard, seed: int) -> Ragged:
        """The train items of each user that `FrozenItems.history` holds; all by default."""
        return shard.train

    def prepare(self, frozen_items: FrozenItems, touched: PairBatch) -> Tensors:
        """Prepare what depends on the frozen table and the touched pairs; once an epoch."""
        return {}

    def rows(
        self,
        work: torch.Tensor,
        frozen: torch.Tensor,
        local: Tensors,
        touched: PairBatch,
    ) -> torch.Tensor:
        """The item vectors that the model sees.

        Args:
            work: float [t, d], with gradient.
            frozen: float [t, d].
            local: the local parameters of the personalization (``per: user`` float [u, ...],
                ``per: row`` spread over the slots, float [t, ...], 0 where the slot is no
                positive).
            touched: the pairs.

        Returns:
            float [q, d].
        """
        return gather(work, touched.local_rows)

    def score(
        self, base: torch.Tensor, local: Tensors, touched: PairBatch, prepared: Tensors
    ) -> torch.Tensor:
        """The score that is trained, float [q], from the model's own."""
        return base

    def loss(
        self, work: torch.Tensor, frozen: torch.Tensor, local: Tensors, touched: PairBatch
    ) -> torch.Tensor | None:
        """A term added to the loss, summed over the users that are touched; None for none."""
        return None

    def after_epoch(
        self,
        work: torch.Tensor,
        frozen: torch.Tensor,
        local: Tensors,
        touched: PairBatch,
        prepared: Tensors,
        forward: Forward,
    ) -> Tensors:
        """New values of local parameters after a local epoch; no gradient."""
        return {}

    def after_round(self, change: torch.Tensor, local: Tensors) -> Tensors:
        """New values of ``per: row`` parameters from the round's change, float [t, d]."""
        return {}

    @property
    def by_columns(self) -> bool:
        """Whether ranking is faster some items at a time, for all users.

        It is where users share what an item costs. Then the scores of an item must not depend on
        which others are scored with it.
        """
        return False

    def prepare_ranking(self, frozen_items: FrozenItems, users: IntArray) -> object:
        """Prepare what the scores of some users share.

        Args:
            frozen_items: of the fresh global table.
            users: int64 [g], the user rows.
        """
        return None

    def rank(
        self, frozen_items: FrozenItems, local: Tensors, ranking: Ranking
    ) -> dict[View, torch.Tensor]:
        """Return the scores of some users for some items.

        Args:
            frozen_items: of the fresh global table.
            local: ``per: user`` values of the users, float [b, ...]; ``per: row`` ones of all
                clients, float [n_positives, ...], as ``frozen_items.positives`` lays them out.
            ranking: the model for these users and items.

        Returns:
            Per view, float [b, c]; ``mixed`` is the method's own.
        """
        return {"mixed": ranking.scores()}
