"""What a personalization declares: how a client's own model differs from everybody's."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from torch import Tensor

from fedrec.compute.batch import PairBatch, Tensors
from fedrec.personalization.phases import COPY as COPY
from fedrec.personalization.phases import Phase as Phase
from fedrec.personalization.phases import View as View
from fedrec.plugins import Plugin
from fedrec.ragged import Ragged
from fedrec.types import FloatArray, IntArray, ParamSpec, Shard


@dataclass(frozen=True, slots=True)
class Branches:
    """The scores of two branches and how they mix, for ranking without an array for each view.

    Args:
        base: float [b, c], the global branch.
        sums: float [p, g, 32], the local branch before it is scaled, 32 items at a time, of all
            users given to `Personalization.prepare_ranking`.
        place: where the users of ``base`` are among them.
        scale: float [b], what the sums are multiplied with.
        share: float [b, 1], weight of the local branch; or [b, c].
    """

    base: Tensor
    sums: Tensor
    place: slice
    scale: Tensor
    share: Tensor

    def views(self) -> dict[View, Tensor]:
        """Return the scores of each view, float [b, c]."""
        sums = self.sums[:, self.place].transpose(0, 1).flatten(1)[:, : self.base.shape[1]]
        local = sums * self.scale.unsqueeze(-1)
        return {"mixed": (self.share * local).add_(self.base), "global": self.base, "local": local}


@dataclass(frozen=True, slots=True)
class FrozenItems:
    """The frozen global table of a round, and whom it is looked at for.

    Args:
        table: float [n_items, d], the frozen global item vectors, or rows of the item table, see
            `Personalization.mixes`.
        unit_item_vectors: what `Personalization.unit_item_vectors` made of it.
        history: one row per user row: the train items that a kernel may look at.
        positives: one row per client row: the union of its users' train items, sorted.
        clients: int64 [u], the client row of each user row.
    """

    table: Tensor
    unit_item_vectors: Tensor | None
    history: Ragged
    positives: Ragged
    clients: IntArray

    def positives_of(self, users: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """Return the positives of the clients of some user rows.

        Returns:
            int64 [q] each: the place of the user in ``users``, the item, and the place of the pair
            in ``positives.values``.
        """
        clients = self.clients[users]
        at = self.positives.positions(clients)
        owners = np.repeat(np.arange(len(users)), self.positives.lengths[clients])
        return owners, self.positives.values[at], at


class Forward(Protocol):
    """The model at the current parameters, as a function of the item vectors of the pairs."""

    def mixed(self) -> Tensor:
        """Return the client's copy of what is mixed, float [q, d], see `Personalization.mixes`."""

    def score(self, rows: Tensor) -> Tensor:
        """Return the score of each pair, float [q], from item vectors, float [q, d]."""

    def features(self, rows: Tensor) -> Tensor:
        """Return the input of the model's last linear layer, float [q, h], from float [q, d]."""


@dataclass(frozen=True, slots=True)
class Ranking(ABC):
    """The model at evaluation, for some users and items.

    Args:
        users: int64 [b], the user rows.
        place: where they are among the users given to `Personalization.prepare_ranking`.
        prepared: what `Personalization.prepare_ranking` returned.
        items: int64 [c], the items that are scored: all, unless `Personalization.by_columns`.
    """

    users: IntArray
    place: slice
    prepared: Any
    items: Tensor

    @abstractmethod
    def scores(self, view: View = "global") -> Tensor:
        """Return the model's scores, float [b, c]: with the values of a view where it has copies.

        Args:
            view: ``global``: with the shared values.
        """

    @abstractmethod
    def patched(self, base: Tensor, block_users: IntArray, items: IntArray, rows: Tensor) -> Tensor:
        """Return scores with other item vectors for some pairs, float [b, n_items].

        They count for the scores of their own pairs, and of a model with a window for all scores
        of a user that has them in its history.

        Args:
            base: float [b, n_items], what `scores` gave.
            block_users: int64 [q], rows of ``users``, ascending.
            items: int64 [q], ascending for each row.
            rows: float [q, d], the vectors, or rows, of these pairs, see `Personalization.mixes`.
        """


class Personalization(Plugin):
    """Base of all personalizations; by itself it changes nothing.

    It never knows the strategy. There are three ways to make a client's model its own:

    - which parameters it keeps: `private`, `copies`, and `state` for parameters of its own;
    - when they are trained, and on which model's loss: `phases`, `parameter`, `penalty`, `move`;
    - what the model makes of items: `rows`, `score`, `loss` and what belongs to them. These are of
      the view ``mixed``. While training everything arrives flat, once per (user, item) pair, as for
      a ``flat`` model; operations are those of `fedrec.compute.operations`.

    Attributes:
        views: The models that rank, ``mixed`` among them.
        moves: Trainable parameters of its own that `move` steps, not ``train.optimizers.private``.
    """

    views: ClassVar[tuple[View, ...]] = ("mixed",)
    moves: ClassVar[tuple[str, ...]] = ()

    def private(
        self, specs: Mapping[str, ParamSpec], last_layer: Collection[str]
    ) -> Collection[str]:
        """Return the dense shared parameters that each client keeps for itself; default none.

        They never leave it, and ``train.optimizers.private`` steps them. Each client begins with
        values of its own, equal to those with which the server would have begun.

        Args:
            specs: The model's parameters.
            last_layer: The names of those that scores depend on and `Model.features` do not; none
                for a model without features of its own.
        """
        return ()

    def copies(self, specs: Mapping[str, ParamSpec]) -> Collection[str]:
        """Return the names of trainable parameters that each client also has a copy of.

        A copy, ``copy.NAME``, begins with the values with which the parameter begins, never leaves
        its client and lasts. Of an item table there are copies of the client's positives; for other
        items the model reads the table. A copy steps as the parameter does, with its optimizer.

        Args:
            specs: The model's parameters that can be copied: all that are trained, but those that
                have a value per positive anyway.
        """
        return ()

    def phases(self, specs: Mapping[str, ParamSpec], copies: Collection[str]) -> tuple[Phase, ...]:
        """Return the phases of local training in their order; default: one that trains all.

        A copy that is trained at the end alone exists there alone, and begins with the values of
        the chosen round.

        Args:
            specs: All trainable parameters but copies: the model's and those of `state`.
            copies: The names of the copies.
        """
        return (Phase(),)

    def parameter(
        self, view: View, name: str, shared: Tensor, copy: Tensor, own: Tensors
    ) -> Tensor:
        """Return the value of a parameter in the model of a view; default: the copy.

        It is asked for parameters that have copies. The view ``global`` has the shared values.

        Args:
            view: ``mixed`` or ``local``.
            name: The parameter.
            shared: float [n, *shape], the value that is not a copy, with gradient.
            copy: float [n, *shape]; the shared value, without gradient, for items that are no
                positives of the client.
            own: Single numbers that `state` declares per client, float [n, 1, ...].
        """
        return copy

    def penalty(self, name: str, copy: Tensor, received: Tensor) -> Tensor | None:
        """Return a term of the loss that copies are trained on, summed; None for none.

        Args:
            name: The parameter.
            copy: float [n, *shape], those of the users, clients and positives of a step.
            received: float [n, *shape], the parameter as the round began.
        """
        return None

    def move(self, name: str, value: Tensor, gradient: Tensor, number: int) -> Tensor:
        """Return the value of a parameter among ``moves`` after a step, float [n, *shape].

        Args:
            name: The parameter.
            value: float [n, *shape], before the step.
            gradient: float [n, *shape].
            number: Of the step in the round, from 0.
        """
        raise NotImplementedError

    @property
    def mixes(self) -> Literal["vectors", "item"]:
        """Return what it mixes: item vectors, or the rows that they are made of.

        The two differ for a model that makes its item vectors of more than the rows of ``item``.
        """
        return "vectors"

    @property
    def needs_frozen_items(self) -> bool:
        """Return whether training looks at the frozen table."""
        return self.overrides(
            "rows", "score", "loss", "after_epoch", "prepare", "unit_item_vectors"
        )

    @classmethod
    def overrides(cls, *methods: str) -> bool:
        """Return whether it has a method of its own among some; what is not needed is left out."""
        return any(getattr(cls, name) is not getattr(Personalization, name) for name in methods)

    @property
    def changes_score(self) -> bool:
        """Return whether `score` may return another score than the model's.

        A model with a loss of its own does not train scores, so both together are refused.
        """
        return self.overrides("score")

    def state(self, dim: int) -> Mapping[str, ParamSpec]:
        """Return the private parameters it adds to an item table of width ``dim``; default none."""
        return {}

    @property
    def random_rows(self) -> int:
        """Return how many random rows per user and epoch it wants among the touched ones."""
        return 0

    def row_cost(self, history: IntArray) -> FloatArray:
        """Return what a touched row of each user costs to train, 1 for the model alone.

        Clients are dealt to nodes by it; it changes no result.

        Args:
            history: int64 [u], the number of train items of each user.
        """
        return np.ones(len(history))

    def unit_item_vectors(self, table: Tensor) -> Tensor | None:
        """Return what it needs of the frozen table, float [n_items, d]; once per message."""
        return None

    def history(self, shard: Shard, seed: int) -> Ragged:
        """Return the train items of each user for `FrozenItems.history`; all by default."""
        return shard.train

    def prepare(self, frozen_items: FrozenItems, pairs: PairBatch) -> Any:
        """Prepare what depends on the frozen table and the pairs of an epoch; once an epoch."""
        return None

    def rows(self, work: Tensor, frozen: Tensor, local: Tensors, pairs: PairBatch) -> Tensor:
        """Return the item vectors that the model sees.

        Args:
            work: float [q, d], the client's copy of each pair's item row, with gradient.
            frozen: float [q, d], the same rows of the frozen table.
            local: The personalization's parameters, once per pair, float [q, ...]; one of the
                axis ``positive`` is 0 where the pair is no positive of the client.
            pairs: The pairs.

        Returns:
            float [q, d].
        """
        return work

    def score(self, base: Tensor, local: Tensors, index: Tensor, prepared: Any) -> Tensor:
        """Return the scores that are trained, float [r].

        Args:
            base: float [r], the model's own.
            local: As for `rows`, once per score, float [r, ...].
            index: int64 [r], where the scored pair stands among the pairs of the epoch.
            prepared: Of `prepare`.
        """
        return base

    def loss(self, work: Tensor, frozen: Tensor, local: Tensors, pairs: PairBatch) -> Tensor | None:
        """Return a term added to the loss, summed over users; None for none. As for `rows`."""
        return None

    def after_epoch(
        self,
        frozen: Tensor,
        local: Tensors,
        state: Tensors,
        pairs: PairBatch,
        prepared: Any,
        forward: Forward,
    ) -> Tensors:
        """Return new values of parameters after a local epoch; no gradient.

        Args:
            frozen: As for `rows`, for all pairs of the epoch.
            local: Likewise.
            state: The same parameters, one value per owner: user, client or positive.
            pairs: The pairs of the epoch.
            prepared: Of `prepare`.
            forward: The model.
        """
        return {}

    def after_round(self, change: Tensor, state: Tensors) -> Tensors:
        """Return new values of ``positive`` parameters after a round.

        Args:
            change: float [n_positives, d], what the round changed of the clients' positives.
            state: The parameters, one value per owner.
        """
        return {}

    @property
    def acts_after_round(self) -> bool:
        """Return whether `after_round` is called; its ``change`` costs two passes over items."""
        return self.overrides("after_round")

    @property
    def by_columns(self) -> bool:
        """Return whether ranking is faster some items at a time, for all users.

        It is where users share what an item costs. Then the scores of an item must not depend on
        which others are scored with it.
        """
        return False

    def prepare_ranking(self, frozen_items: FrozenItems, users: IntArray) -> Any:
        """Prepare what the scores of some users share.

        Args:
            frozen_items: of the fresh global table.
            users: int64 [g], the user rows.
        """
        return None

    def rank(
        self, frozen_items: FrozenItems, local: Tensors, ranking: Ranking
    ) -> dict[View, Tensor] | Branches:
        """Return the scores of some users for some items.

        Args:
            frozen_items: of the fresh global table.
            local: values of the users, and of their clients, float [b, ...]; ``positive`` ones of
                all clients, float [n_positives, ...], as ``frozen_items.positives`` has them.
            ranking: the model for these users and items.

        Returns:
            Per view, float [b, c]; ``mixed`` is the method's own.
        """
        return {view: ranking.scores(view) for view in self.views}


class NoPersonalization(Personalization):
    """All clients score with the same global item table."""
