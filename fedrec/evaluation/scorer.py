"""Scores of users for the catalogue, with their own parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

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
from fedrec.ragged import Ragged
from fedrec.training.clients import frozen_items_of, tensors_of
from fedrec.training.forward import Call, Rows, compute, encode, encode_catalogue
from fedrec.training.task import ClientTask
from fedrec.training.views import numbers_of_clients, value_in
from fedrec.types import IntArray, Params, Shard

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
        # Where each client has its own encoder, there are no vectors of all.
        self.encoded = torch.zeros(shard.n_items, 0)
        if not task.own_encoder:
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
class Values:
    """What the users of a block rank with, in the model of a view.

    Args:
        of_users: float [b, *shape], by the model's names.
        of_clients: float [b, *shape], those of each user's client.
        dense: float [*shape], those that all share.
        encoded: float [n_items, d], the item vectors.
        source: float [n, d], the vectors that histories name.
        history: The latest items, one row per user, for a model with a window.
    """

    of_users: Tensors
    of_clients: Tensors
    dense: Tensors
    encoded: Tensor
    source: Tensor
    history: Histories | None


@dataclass(frozen=True, slots=True)
class Pairs:
    """Some pairs of users and items.

    Args:
        users: int64 [q], rows of the block, ascending.
        items: int64 [q]; ascending for each user, where they stand in a history.
        rows: float [q, *shape], of item tables, where they are others than in the table.
    """

    users: IntArray
    items: IntArray
    rows: Tensors


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
        added = {name: self.private[name] for name in scorer.task.personalization_params()}
        ranking = replace(self, items=items)
        task, like = scorer.task, np.broadcast_to(0, (len(self.users), len(items)))
        scores = task.personalization.rank(scorer.frozen_items, added, ranking)
        if not isinstance(scores, Branches):
            expected = dict.fromkeys(task.personalization.views, like)
            check_shapes(f"{task.personalized}: rank", scores, expected)
        return scores

    def scores(self, view: View = "global") -> Tensor:
        """Return the scores of these users and items in the model of a view, float [b, c]."""
        scorer, task = self.scorer, self.scorer.task
        if not task.own_encoder and (view == "global" or not task.copied_encoder):
            return self._ranked(self._values(view), view)
        # Each client has item vectors of its own.
        clients = scorer.frozen_items.clients[self.users]
        first = np.flatnonzero(np.diff(clients, prepend=-1)).tolist()
        ranked = []
        for start, stop in pairwise([*first, len(clients)]):
            block = self._of_users(slice(start, stop))
            values = block._values(view)
            of_client = {name: value[0] for name, value in values.of_clients.items()}
            encoded = encode_catalogue(task, {**scorer.params, **of_client})
            ranked.append(block._ranked(replace(values, encoded=encoded), view))
        return torch.cat(ranked)

    def patched(self, base: Tensor, block_users: IntArray, items: IntArray, rows: Tensor) -> Tensor:
        """Return scores with other item vectors for some pairs, float [b, n_items]."""
        task, values = self.scorer.task, self._values("global")
        is_vector = task.mixes_vectors or not task.encodes
        pairs = Pairs(block_users, items, {} if is_vector else {"item": rows})
        vectors = rows if is_vector else self._vectors(values, pairs)
        if values.history is not None:
            values = self._with_history(values, pairs, vectors)
            base = self._ranked(values, "global")
        return self._with_pairs(base.clone(), values, pairs, vectors)

    def _of_users(self, rows: slice) -> Block:
        """Return some users of the block."""
        specs = self.scorer.task.specs()
        private = {
            name: value if specs[name].axis == "positive" else value[rows]
            for name, value in self.private.items()
            if name in specs
        }
        order = None if self.order is None else self.order[rows]
        return replace(self, users=self.users[rows], private=private, order=order)

    def _values(self, view: View) -> Values:
        """Return what the users rank with in the model of a view, but for their positives."""
        scorer, task, private = self.scorer, self.scorer.task, self.private
        of_users = {name: private[name] for name in task.of_model("user")}
        of_clients = {name: private[name] for name in task.of_model("client")}
        dense = {name: scorer.params[name] for name in task.dense()}
        numbers = {name: private[name] for name in numbers_of_clients(task)}
        copies = {} if view == "global" else task.copies()
        for name_of_copy, name in copies.items():
            axis, copy = task.specs()[name_of_copy].axis, private[name_of_copy]
            if axis != "positive":
                shared = dense.pop(name).expand_as(copy) if name in dense else private[name]
                of_owners = of_users if axis == "user" else of_clients
                of_owners[name] = value_in(task, view, name, shared, copy, numbers)
        history = None if scorer.history is None else scorer.history.take(self.users)
        return Values(of_users, of_clients, dense, scorer.encoded, scorer.encoded, history)

    def _ranked(self, values: Values, view: View) -> Tensor:
        """Return the scores with the values of a view, those of positives among them."""
        pairs = self._positives(view)
        if pairs is None:
            return self._scores(values)
        vectors = self._vectors(values, pairs)
        if pairs.rows:
            values = self._with_history(values, pairs, vectors)
        return self._with_pairs(self._scores(values).clone(), values, pairs, vectors)

    def _positives(self, view: View) -> Pairs | None:
        """Return the positives of the users, where values belong to them, with their rows."""
        scorer, task = self.scorer, self.scorer.task
        copies = {} if view == "global" else task.copies()
        copied = {n: c for c, n in copies.items() if task.specs()[c].axis == "positive"}
        if not copied and not task.of_model("positive"):
            return None
        users, items, at = scorer.frozen_items.positives_of(self.users)
        user, item = torch.as_tensor(users), torch.as_tensor(items)
        numbers = {name: self.private[name][user] for name in numbers_of_clients(task)}
        rows = {
            name: value_in(
                task,
                view,
                name,
                scorer.tables[name][item],
                self.private[copy][torch.as_tensor(at)],
                numbers,
            )
            for name, copy in copied.items()
        }
        return Pairs(users, items, rows)

    def _vectors(self, values: Values, pairs: Pairs) -> Tensor:
        """Return the item vectors of some pairs, from rows of their own, float [q, d]."""
        scorer, task, item = self.scorer, self.scorer.task, torch.as_tensor(pairs.items)
        if not task.encodes or not pairs.rows:
            return pairs.rows.get("item", values.encoded[item])
        of_rows = {name: table[item] for name, table in scorer.tables.items()} | dict(pairs.rows)
        sizes = np.array([len(item)] if len(item) else [], np.int64)
        encoder = {*task.dense(), *task.own_encoder}
        of_clients = {n: v for n, v in values.of_clients.items() if n in encoder}
        if of_clients:
            sizes, first = self._sizes(pairs.users)
            of_clients = {name: value[first] for name, value in of_clients.items()}
        rows = Rows(sizes, item, item, of_rows, of_clients, values.dense, network=task.network)
        return encode(task, rows)

    def _with_history(self, values: Values, pairs: Pairs, vectors: Tensor) -> Values:
        """Return the values with histories that have the vectors of some pairs."""
        if values.history is None:
            return values
        rows = np.searchsorted(pairs.users, np.arange(len(self.users) + 1))
        places, patches = values.history.rows, Ragged(rows, pairs.items)
        at = patches.find(places.owners(), places.values)
        at = np.where(at < 0, places.values, len(values.source) + at)
        history = replace(values.history, rows=Ragged(places.offsets, at))
        return replace(values, source=torch.cat([values.source, vectors]), history=history)

    def _scores(self, values: Values) -> Tensor:
        """Return all scores, as if no item were a positive of anybody."""
        scorer, task, encoded = self.scorer, self.scorer.task, values.encoded
        if self.order is not None and scorer.first_stage is not None:
            candidates = self.order[:, : scorer.first_stage.n]
            nothing = encoded.new_zeros(self.order.shape, dtype=getattr(torch, task.dtype))
            user = np.repeat(np.arange(len(candidates)), candidates.shape[1])
            ranked = Pairs(user, to_array(candidates.flatten()), {})
            return self._with_pairs(nothing, values, ranked, encoded[candidates.flatten()])
        tables: Tensors = scorer.tables
        if self.items is not scorer.everything:
            tables = {name: table[self.items] for name, table in tables.items()}
            encoded = encoded[self.items]
        by_user = task.model.execution == "flat"
        positive = task.of_model("positive")
        user_rows = [*values.of_users, *positive]
        user_rows += [*values.dense, *values.of_clients] if by_user else []

        def of_catalogue(params: ModelParams, batch: Batch, _: Tensor) -> Tensor:
            given = params.for_ranking(tables, user_rows)
            history = None if batch.history is None else batch.history.of(batch.users)
            block = Batch(torch.arange(len(batch.users)), self.items, history=history)
            scores = task.model.rank(given, block, encoded)
            # A model without private parameters scores one row, the same for all.
            return scores.expand(len(batch.users), -1)

        everybody, most = np.arange(len(self.users)), max(_SCORES // len(self.items), 1)
        absent = {
            name: self.private[name].new_zeros((len(everybody), *self.private[name].shape[1:]))
            for name in positive
        }
        users = Pairs(everybody, 0 * everybody, {})
        return self._computed(of_catalogue, values, users, absent, most)

    def _with_pairs(self, scores: Tensor, values: Values, pairs: Pairs, vectors: Tensor) -> Tensor:
        """Return ``scores``, changed: those of some pairs with given item vectors, float [q, d]."""
        scorer, frozen_items = self.scorer, self.scorer.frozen_items
        user, item = torch.as_tensor(pairs.users), torch.as_tensor(pairs.items)
        of_rows = {name: table[item] for name, table in scorer.tables.items()} | dict(pairs.rows)
        for name in scorer.task.of_model("positive"):
            clients = frozen_items.clients[self.users[pairs.users]]
            at = frozen_items.positives.find(clients, pairs.items)
            of_positives, is_positive = self.private[name], torch.as_tensor(at >= 0)
            of_rows[name] = of_positives.new_zeros((len(at), *of_positives.shape[1:]))
            of_rows[name][is_positive] = of_positives[torch.as_tensor(at)[is_positive]]
        scores[user, item] = self._computed(
            scorer.task.model.score, values, pairs, of_rows, _SCORES, vectors
        )
        return scores

    def _computed(
        self,
        call: Call,
        values: Values,
        pairs: Pairs,
        of_rows: Tensors,
        most: int,
        vectors: Tensor | None = None,
    ) -> Tensor:
        """Compute pairs, or users, whose clients are neighbours, with their own parameters."""
        task, user, history = self.scorer.task, torch.as_tensor(pairs.users), values.history
        sizes, first = self._sizes(pairs.users)
        context = None
        if history is not None:
            context = torch.as_tensor(history.rows.lengths[pairs.users])
        rows = Rows(
            sizes,
            user,
            torch.as_tensor(pairs.items),
            {**of_rows, **{name: value[user] for name, value in values.of_users.items()}},
            {name: value[first] for name, value in values.of_clients.items()},
            values.dense,
            vectors=vectors,
            context=context,
            network=task.network,
            history=history,
            source=values.source,
        )
        return compute(call, rows, task.model.execution, most)

    def _sizes(self, block_users: IntArray) -> tuple[IntArray, Tensor]:
        """Return how many neighbours each client has, int64 [c], and a user of each, int64 [c]."""
        clients = self.scorer.frozen_items.clients[self.users[block_users]]
        first = np.flatnonzero(np.diff(clients, prepend=-1))
        return np.diff(first, append=len(clients)), torch.as_tensor(block_users[first])
