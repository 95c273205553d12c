"""The model at evaluation: a block of users against the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from fedrec.compute.batch import Tensors
from fedrec.models.base import History, Pairs
from fedrec.personalization.base import FrozenItems
from fedrec.training.executors.clientwise import Call, Rows, Values, by_client
from fedrec.training.task import ClientTask
from fedrec.types import IntArray, Ragged

__all__ = ["BlockRanking"]

Tensor: TypeAlias = "torch.Tensor"

_SCORES = 1 << 18
"""Scores that a model which is not ``flat`` computes at once, which bounds the memory."""


@dataclass(frozen=True, slots=True)
class BlockRanking:
    """The model for a block of users (see `fedrec.personalization.base.Ranking`).

    Args:
        task: model and personalization.
        params: the global parameters: tables float [n_items, *shape], dense float [*shape].
        local: the local parameters of all users and clients.
        frozen_items: whose user rows are whose, and the positives of the clients.
        users: int64 [b], the user rows of the block.
        place: where they stand among the users that ``prepared`` was prepared for.
        prepared: what `fedrec.personalization.base.Personalization.prepare_ranking` returned.
        history: for a model with a window, one row per user row: the latest train items, oldest
            first.
        columns: int64 [c], the items that are scored, for a ``flat`` model; None: all.
        gathered: what `gather` returned, if it is wanted more than once.
    """

    task: ClientTask
    params: Mapping[str, Tensor]
    local: Mapping[str, Tensor]
    frozen_items: FrozenItems
    users: IntArray
    place: slice
    prepared: object
    history: Ragged | None = None
    columns: Tensor | None = None
    gathered: Mapping[str, Tensor] | None = None

    @property
    def items(self) -> Tensor:
        """Return the items that are scored, int64 [c]."""
        return torch.arange(len(self.params["item"])) if self.columns is None else self.columns

    def scores(self) -> Tensor:
        """Return the scores of these users and items with the global table, float [b, c]."""
        if self.columns is None:
            return self.catalogue()
        tables = {name: self.params[name][self.columns] for name in self.task.tables()}
        scores = self.task.model.score_catalogue(self.gathered or self._flat(), tables)
        return scores.expand(len(self.users), -1)

    def gather(self) -> dict[str, Tensor] | None:
        """Return the parameters of a ``flat`` model that have no row per item, one row per user."""
        return self._flat() if self.task.model.execution == "flat" else None

    def catalogue(self) -> Tensor:
        """Return the scores with the global table, float [b, n_items]."""
        if self.task.model.execution == "flat" and not self._by_positive():
            tables = {name: self.params[name] for name in self.task.tables()}
            scores = self.task.model.score_catalogue(self.gathered or self._flat(), tables)
            # A model without private parameters scores one row, the same for all.
            return scores.expand(len(self.users), -1)
        return self._catalogue(self.params["item"], self._histories())

    def _by_positive(self) -> list[str]:
        """Return the model's parameters that have a value for each of a client's positives."""
        return [n for n, s in self.task.model.params().items() if s.axis == "positive"]

    def patched(self, base: Tensor, block_users: IntArray, items: IntArray, rows: Tensor) -> Tensor:
        """Return ``base``, float [b, n_items], with other item vectors for some pairs.

        They count for the scores of their own pairs, and of a model with a window for all scores
        of a user that has them in its history.

        Args:
            base: float [b, n_items], what `catalogue` gave.
            block_users: int64 [q], rows of the block, ascending.
            items: int64 [q], ascending for each row.
            rows: float [q, d], the vectors of these pairs.
        """
        source, history = self.params["item"], self._histories()
        scores = base.clone()
        if history is not None:
            n_items = len(source)
            keys = block_users * n_items + items
            wanted = history.owners() * n_items + history.values
            at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
            patched = keys[at] == wanted if len(keys) else np.zeros(len(wanted), bool)
            source = torch.cat([source, rows])
            history = Ragged(history.offsets, np.where(patched, n_items + at, history.values))
            scores = self._catalogue(source, history)
        patch = self._pairs(block_users, items, rows, source, history)
        scores[torch.from_numpy(block_users), torch.from_numpy(items)] = patch
        return scores

    def _all_pairs(self, source: Tensor, history: Ragged | None) -> Tensor:
        """Compute all scores pair by pair, some users at a time, float [b, n_items]."""
        n_items = len(self.params["item"])
        scores = []
        for users in np.array_split(
            np.arange(len(self.users)), -(-len(self.users) * n_items // _SCORES)
        ):
            items = np.tile(np.arange(n_items), len(users))
            rows = self.params["item"].repeat(len(users), 1)
            pairs = self._pairs(np.repeat(users, n_items), items, rows, source, history)
            scores.append(pairs.reshape(-1, n_items))
        return torch.cat(scores)

    def _positive_values(self, block_users: IntArray, items: IntArray) -> dict[str, Tensor]:
        """Per parameter of the model with the axis ``positive``: float [q, ...], 0 elsewhere."""
        names = self._by_positive()
        if not names:
            return {}
        client = self.frozen_items.clients[self.users[block_users]]
        at = self.frozen_items.positives.find(client, items)
        absent = torch.from_numpy(at < 0)
        values = {}
        for name in names:
            rows = self.local[name][torch.from_numpy(np.maximum(at, 0))]
            values[name] = rows.masked_fill(absent.reshape(-1, *[1] * (rows.dim() - 1)), 0)
        return values

    def _histories(self) -> Ragged | None:
        """Return the latest items, one row per user of the block."""
        return None if self.history is None else self.history.take(self.users)

    def _catalogue(self, source: Tensor, history: Ragged | None) -> Tensor:
        if self._by_positive():
            return self._all_pairs(source, history)
        model, names = self.task.model, self.task.tables()
        shared = {n: self.params[n] for n in (*names, *self.task.dense())}

        def of_client(params: Tensors, pairs: Pairs) -> Tensor:
            private = {name: value for name, value in params.items() if name not in names}
            tables = {name: params[name] for name in names}
            if pairs.history is None:
                scores = model.score_catalogue(private, tables)
            else:
                vectors = pairs.history.vectors[pairs.users]
                lengths = pairs.history.lengths[pairs.users]
                scores = model.score_catalogue(private, tables, History(vectors, lengths))
            return scores.expand(len(pairs.users), -1)

        everybody = np.arange(len(self.users))
        n_items = len(self.params["item"])
        items = np.zeros(len(self.users), np.int64)
        most = max(_SCORES // n_items, 1)
        return self._by_client(of_client, everybody, items, {}, shared, source, history, most)

    def _pairs(
        self,
        block_users: IntArray,
        items: IntArray,
        rows: Tensor,
        source: Tensor,
        history: Ragged | None,
    ) -> Tensor:
        user, item = torch.from_numpy(block_users), torch.from_numpy(items)
        gathered = {n: self.params[n][item] for n in self.task.tables()} | {"item": rows}
        gathered |= self._positive_values(block_users, items)
        if self.task.model.execution == "flat":
            per_user = {name: value[user] for name, value in self._flat().items()}
            return self.task.model.score(per_user | gathered, Pairs(user, item))
        shared = {name: self.params[name] for name in self.task.dense()}
        score = self.task.model.score
        return self._by_client(
            score, block_users, items, gathered, shared, source, history, _SCORES
        )

    def _by_client(
        self,
        call: Call,
        block_users: IntArray,
        items: IntArray,
        of_rows: Tensors,
        shared: Tensors,
        source: Tensor,
        history: Ragged | None,
        most: int,
    ) -> Tensor:
        """Compute pairs, or users, whose clients are neighbours."""
        model = self.task.model
        user = self.users[block_users]
        clients = self.frozen_items.clients[user]
        first = np.flatnonzero(np.diff(clients, prepend=-1))
        of_clients, specs = torch.from_numpy(clients[first]), model.params()
        per_user = {
            name: self.local[name][torch.from_numpy(user)]
            for name, spec in specs.items()
            if spec.axis == "user"
        }
        per_client = {
            name: self.local[name][of_clients]
            for name, spec in specs.items()
            if spec.axis == "client"
        }
        rows = Rows(
            np.diff(first, append=len(clients)),
            torch.from_numpy(block_users),
            torch.from_numpy(items),
            None if history is None else torch.from_numpy(history.lengths[block_users]),
            history,
        )
        values = Values({**of_rows, **per_user}, per_client, shared, source)
        return by_client(call, values, rows, model.execution == "vmap", most)

    def _flat(self) -> dict[str, Tensor]:
        """Gather every parameter without a row per item for the users of the block."""
        user = torch.from_numpy(self.users)
        client = torch.from_numpy(self.frozen_items.clients[self.users])
        gathered = {}
        for name, spec in self.task.model.params().items():
            if (spec.scope, spec.axis) == ("shared", None):
                value = self.params[name]
                gathered[name] = value.expand(len(user), *value.shape)
            elif spec.axis in ("user", "client"):
                gathered[name] = self.local[name][user if spec.axis == "user" else client]
        return gathered
