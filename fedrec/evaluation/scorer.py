"""Scores of users for the catalogue, with their own parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedrec.compute.batch import Histories, Tensors
from fedrec.compute.device import to_array
from fedrec.data.history import latest
from fedrec.errors import check_shapes
from fedrec.evaluation.rerank import FirstStage, reranked
from fedrec.models.base import Batch
from fedrec.models.module import ModelParams
from fedrec.personalization.base import Branches, Ranking, View
from fedrec.training.clients import frozen_items_of, tensors_of
from fedrec.training.forward import Call, Rows, compute, encode, encode_catalogue
from fedrec.training.task import ClientTask
from fedrec.types import IntArray, Params, Ragged, Shard

_SCORES = 1 << 18
"""Scores that a model which is not ``flat`` computes at once, which bounds the memory."""


class UserScorer:
    """The scores of the users of a shard for the catalogue.

    Args:
        task: model and personalization.
        shard: the clients.
        params: the global parameters.
        local: the local parameters of these clients, in their order.
        first_stage: whose candidates alone are scored; None: the whole catalogue is.
    """

    def __init__(
        self,
        task: ClientTask,
        shard: Shard,
        params: Params,
        local: Params,
        first_stage: FirstStage | None = None,
    ) -> None:
        self.task, self.everything = task, torch.arange(shard.n_items)
        self.shard, self.first_stage = shard, first_stage
        self.params, self.local = tensors_of(params, task.dtype), tensors_of(local, task.dtype)
        self.tables = {name: self.params[name] for name in task.tables()} | dict(task.frozen_tables)
        self.encoded = encode_catalogue(task, self.params)
        table = self.encoded if task.mixes_vectors else self.params.get("item", self.encoded)
        unit_item_vectors = task.personalization.unit_item_vectors(table)
        self.frozen_items = frozen_items_of(task, shard, table, unit_item_vectors)
        self.history: Histories | None = None
        if task.model.window is not None:
            rows = latest(shard, task.model.window - 1)
            items = shard.train.values[rows.values]
            columns = (
                None if column is None else column[rows.values]
                for column in (shard.timestamps, shard.ratings)
            )
            self.history = Histories(Ragged(rows.offsets, items), items, *columns)

    @property
    def by_columns(self) -> bool:
        """Return whether some items at a time are faster, for all users."""
        is_flat = self.task.model.execution == "flat" and not self.task.of_model("positive")
        return is_flat and self.task.personalization.by_columns and self.first_stage is None

    def __call__(self, users: IntArray) -> dict[View, Tensor]:
        """Return the scores of some users for the whole catalogue.

        Args:
            users: int64 [b], user rows of the shard.

        Returns:
            float [b, n_items] per view.
        """
        return self.blocks(users, max(len(users), 1))[0].views(self.everything)

    def blocks(self, users: IntArray, size: int) -> list[Block]:
        """Return some users in blocks; all of them share what the scores of items cost.

        Args:
            users: int64 [g], user rows of the shard.
            size: users of a block.
        """
        task, blocks = self.task, []
        prepared = task.personalization.prepare_ranking(self.frozen_items, users)
        for start in range(0, max(len(users), 1), size):
            chosen = users[start : start + size]
            private, clients = dict(self.local), self.frozen_items.clients[chosen]
            for name in task.private():
                if task.specs()[name].axis != "positive":
                    by_user = task.specs()[name].axis == "user"
                    private[name] = private[name][torch.as_tensor(chosen if by_user else clients)]
            place = slice(start, start + len(chosen))
            order = None
            if self.first_stage is not None:
                ids, train = self.shard.user_ids[chosen], self.shard.train.take(chosen)
                order = self.first_stage.order(ids, train)
            blocks.append(Block(chosen, place, prepared, self.everything, self, private, order))
        return blocks


@dataclass(frozen=True, slots=True)
class Block(Ranking):
    """The model for some users.

    Args:
        scorer: the parameters, and who the users are.
        private: the private parameters: of users and clients float [b, *shape], a row per user;
            of positives all of them.
        order: of the first stage, int64 [b, n_items], see `FirstStage.order`.
    """

    scorer: UserScorer
    private: Tensors
    order: Tensor | None = None

    def views(self, items: Tensor) -> dict[View, Tensor]:
        """Return the scores of the users for some items per view, float [b, c]; as `rank`.

        Where there is a first stage, its candidates stand above all others, see `reranked`.
        """
        scores = self.rank(items)
        views = scores.views() if isinstance(scores, Branches) else scores
        if self.order is None or self.scorer.first_stage is None:
            return views
        n = self.scorer.first_stage.n
        return {view: reranked(of_view, self.order, n) for view, of_view in views.items()}

    def rank(self, items: Tensor) -> dict[View, Tensor] | Branches:
        """Return the scores of the users.

        Args:
            items: int64 [c], all, or some if the scores are `UserScorer.by_columns`. Then they do
                not depend on which items are scored together if there are equally many.

        Returns:
            float [b, c] per view.
        """
        scorer = self.scorer
        added = {name: self.private[name] for name in scorer.task.added()}
        ranking = replace(self, items=items)
        task, like = scorer.task, np.broadcast_to(0, (len(self.users), len(items)))
        scores = task.personalization.rank(scorer.frozen_items, added, ranking)
        if not isinstance(scores, Branches):
            expected = dict.fromkeys(task.personalization.views, like)
            check_shapes(f"{task.personalized}: rank", scores, expected)
        return scores

    def scores(self) -> Tensor:
        """Return the scores of these users and items with the global table, float [b, c]."""
        return self._scores(self.scorer.encoded, self._histories())

    def patched(self, base: Tensor, block_users: IntArray, items: IntArray, rows: Tensor) -> Tensor:
        """Return scores with other item vectors for some pairs, float [b, n_items]."""
        source, history, scores = self.scorer.encoded, self._histories(), base.clone()
        vectors = self._vectors(items, rows)
        if history is not None:
            patches = Ragged(np.searchsorted(block_users, np.arange(len(self.users) + 1)), items)
            places = history.rows
            at = patches.find(places.owners(), places.values)
            at = np.where(at < 0, places.values, len(source) + at)
            history = replace(history, rows=Ragged(places.offsets, at))
            source = torch.cat([source, vectors])
            scores = self._scores(source, history)
        return self._with_pairs(scores, block_users, items, vectors, source, history)

    def _vectors(self, items: IntArray, rows: Tensor) -> Tensor:
        """Return the item vectors of some items, from what the personalization mixed, [q, d]."""
        scorer, task = self.scorer, self.scorer.task
        if task.mixes_vectors or not task.encodes:
            return rows
        at = torch.as_tensor(items)
        of_rows = {name: table[at] for name, table in scorer.tables.items()} | {"item": rows}
        sizes = np.array([len(items)] if len(items) else [], np.int64)
        dense = {name: scorer.params[name] for name in task.dense()}
        return encode(task, Rows(sizes, at, at, of_rows, {}, dense, network=task.network))

    def _histories(self) -> Histories | None:
        """Return the latest items, one row per user of the block."""
        return None if self.scorer.history is None else self.scorer.history.take(self.users)

    def _scores(self, source: Tensor, history: Histories | None) -> Tensor:
        """Return all scores with the vectors that histories name, float [n, d]."""
        scorer, task, encoded = self.scorer, self.scorer.task, self.scorer.encoded
        if self.order is not None and scorer.first_stage is not None:
            candidates = self.order[:, : scorer.first_stage.n]
            nothing = encoded.new_zeros(self.order.shape, dtype=getattr(torch, task.dtype))
            users = np.repeat(np.arange(len(candidates)), candidates.shape[1])
            items, vectors = to_array(candidates.flatten()), encoded[candidates.flatten()]
            return self._with_pairs(nothing, users, items, vectors, source, history)
        tables: Tensors = scorer.tables
        if self.items is not scorer.everything:
            tables = {name: table[self.items] for name, table in tables.items()}
            encoded = encoded[self.items]
        by_user = task.model.execution == "flat"
        user_rows = [n for n in task.specs() if task.specs()[n].axis in ("user", "positive")]
        user_rows += [*task.dense(), *task.of_model("client")] if by_user else []

        def of_catalogue(params: ModelParams, batch: Batch, _: Tensor) -> Tensor:
            given = params.for_ranking(tables, user_rows)
            history = None if batch.history is None else batch.history.of(batch.users)
            users = Batch(torch.arange(len(batch.users)), self.items, history=history)
            scores = task.model.rank(given, users, encoded)
            # A model without private parameters scores one row, the same for all.
            return scores.expand(len(batch.users), -1)

        everybody, most = np.arange(len(self.users)), max(_SCORES // len(self.items), 1)
        # As if no item were a positive of anybody; the positives come after.
        absent = {
            name: self.private[name].new_zeros((len(everybody), *self.private[name].shape[1:]))
            for name in scorer.task.of_model("positive")
        }
        scores = self._computed(
            of_catalogue, everybody, 0 * everybody, absent, source, history, most
        )
        if not absent:
            return scores
        users, items, _ = scorer.frozen_items.positives_of(self.users)
        vectors = scorer.encoded[torch.as_tensor(items)]
        return self._with_pairs(scores.clone(), users, items, vectors, source, history)

    def _with_pairs(
        self,
        scores: Tensor,
        block_users: IntArray,
        items: IntArray,
        vectors: Tensor,
        source: Tensor,
        history: Histories | None,
    ) -> Tensor:
        """Return ``scores``, changed: those of some pairs with given item vectors."""
        scorer, frozen_items = self.scorer, self.scorer.frozen_items
        user, item = torch.as_tensor(block_users), torch.as_tensor(items)
        of_rows = {name: table[item] for name, table in scorer.tables.items()}
        for name in scorer.task.of_model("positive"):
            at = frozen_items.positives.find(frozen_items.clients[self.users[block_users]], items)
            values, is_positive = self.private[name], torch.as_tensor(at >= 0)
            of_rows[name] = values.new_zeros((len(at), *values.shape[1:]))
            of_rows[name][is_positive] = values[torch.as_tensor(at)[is_positive]]
        scores[user, item] = self._computed(
            scorer.task.model.score,
            block_users,
            items,
            of_rows,
            source,
            history,
            _SCORES,
            vectors,
        )
        return scores

    def _computed(
        self,
        call: Call,
        block_users: IntArray,
        items: IntArray,
        of_rows: Tensors,
        source: Tensor,
        history: Histories | None,
        most: int,
        vectors: Tensor | None = None,
    ) -> Tensor:
        """Compute pairs, or users, whose clients are neighbours, with their own parameters."""
        scorer, task = self.scorer, self.scorer.task
        user = torch.as_tensor(block_users)
        of_users = {name: self.private[name] for name in task.of_model("user")}
        of_clients = {name: self.private[name] for name in task.of_model("client")}
        dense = {name: scorer.params[name] for name in task.dense()}
        clients = scorer.frozen_items.clients[self.users[block_users]]
        first = np.flatnonzero(np.diff(clients, prepend=-1))
        rows = Rows(
            np.diff(first, append=len(clients)),
            user,
            torch.as_tensor(items),
            {**of_rows, **{name: value[user] for name, value in of_users.items()}},
            {name: value[user[first]] for name, value in of_clients.items()},
            dense,
            vectors=vectors,
            context=None if history is None else torch.as_tensor(history.rows.lengths[block_users]),
            network=task.network,
            history=history,
            source=source,
        )
        return compute(call, rows, task.model.execution, most)
