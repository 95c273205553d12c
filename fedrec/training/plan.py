"""What some clients train on in one round: draws, unique pairs, local rows. Flat and ragged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedrec.compute.batch import PairBatch
from fedrec.training.draws import Draws, draw_round, trained_positives
from fedrec.training.layout import positives_of_clients
from fedrec.types import FloatArray, IntArray, Ragged, Shard, offsets_of

if TYPE_CHECKING:
    from fedrec.training.task import ClientTask

__all__ = ["Epoch", "Owners", "Step", "TrainingPlan", "arrange", "plan_training"]


@dataclass(frozen=True, slots=True)
class Owners:
    """Whose private values of one axis the pairs of a step use.

    Args:
        present: int64 [n], where the values lie among those of the plan's clients; sorted.
        index: int64 [q], for each pair a position in ``present``, n for none.
        positives: int64 [n], how many positives of the step each owner has.
        clients: int64 [n], position of each owner's client among the clients of the step.
        offsets: int64 [n + 1], if the pairs stand owner after owner: the pairs of each.
    """

    present: IntArray
    index: IntArray
    positives: IntArray
    clients: IntArray
    offsets: IntArray | None


@dataclass(frozen=True, slots=True)
class Step:
    """One step of SGD, of every client that has a step of this number.

    What is scored are its pairs; of a model with a window each positive with its negatives, one
    after the other, for they are scored from what stood before the positive.

    Args:
        pairs: Its unique pairs.
        local_rows: int64 [q], the local row of each pair.
        every_row: Whether these are all local rows, in their order.
        owners: Per axis of private parameters.
        scored: int64 [r], the pair of each score; None: every pair once.
        context: int64 [r], how many items of the history stand before it, for a window.
        is_positive: float32 [r], 1 for a positive.
        n_negative: float32 [r], how often it was drawn as a negative.
        positive: int64 [p], the score of each positive (of pairwise losses and windows).
        negative: int64 [p, k], the scores of its negatives (likewise).
    """

    pairs: PairBatch
    local_rows: torch.Tensor
    every_row: bool
    owners: Mapping[str, Owners]
    scored: torch.Tensor | None
    context: torch.Tensor | None
    is_positive: torch.Tensor
    n_negative: torch.Tensor
    positive: torch.Tensor
    negative: torch.Tensor


@dataclass(frozen=True, slots=True)
class Epoch:
    """One local epoch.

    Args:
        draws: What is random in it.
        steps: Its steps.
        whole: All its pairs as one step; None where nothing asks for them.
    """

    draws: Draws
    steps: tuple[Step, ...]
    whole: Step | None


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """All that some clients do in one round.

    Args:
        shard: The clients.
        positives: One row per client: the union of its users' train items.
        row_offsets: int64 [c + 1], client ``k`` has the local rows
            ``row_offsets[k]:row_offsets[k + 1]``.
        row_items: int64 [t], the item of each local row, sorted within a client.
        epochs: The local epochs.
    """

    shard: Shard
    positives: Ragged
    row_offsets: IntArray
    row_items: IntArray
    epochs: tuple[Epoch, ...]

    def rows_of(self, clients: IntArray, items: IntArray) -> IntArray:
        """Return the local rows of some items, int64 [n], -1 for none.

        Args:
            clients: int64 [n], client rows.
            items: int64 [n].
        """
        return Ragged(self.row_offsets, self.row_items).find(clients, items)


def plan_training(
    task: ClientTask,
    shard: Shard,
    round: int,
    popularity: IntArray | None = None,
    remembered: Ragged | None = None,
) -> TrainingPlan:
    """Draw everything that is random in a round.

    Each draw is a hash of (seed, round, user, draw), so it does not matter which clients are
    drawn for together.

    Args:
        task: What is trained.
        shard: The clients that train.
        round: The round.
        popularity: int64 [n_items], weights for popularity sampling.
        remembered: One row per client: further items that have a local row, though no pair.
    """
    return arrange(task, shard, draw_round(task, shard, round, popularity), remembered)


def arrange(
    task: ClientTask, shard: Shard, draws: Sequence[Draws], remembered: Ragged | None = None
) -> TrainingPlan:
    """Sort what was drawn into steps and local rows.

    Args:
        task: What is trained.
        shard: The clients that train.
        draws: Of each local epoch.
        remembered: See `plan_training`.
    """
    return _Planner(task, shard).plan(draws, remembered)


class _Planner:
    def __init__(self, task: ClientTask, shard: Shard) -> None:
        self.task, self.shard = task, shard
        self.positives = positives_of_clients(shard)
        _, self.history = trained_positives(task, shard)
        self.client_of_user = shard.client_of_user()
        axes = {s.axis for s in task.specs().values() if s.scope == "private"}
        self.by_positive = "positive" in axes

    def plan(self, draws: Sequence[Draws], remembered: Ragged | None) -> TrainingPlan:
        shard, n_items = self.shard, self.shard.n_items
        keys = []
        for drawn in draws:
            client = self.client_of_user[drawn.users] * n_items
            keys += [client + drawn.items, (client[:, None] + drawn.negatives).ravel()]
            keys.append(self.client_of_user[drawn.random_owners] * n_items + drawn.random_items)
        if remembered is not None:
            keys.append(remembered.owners() * n_items + remembered.values)
        rows = _distinct(np.concatenate(keys))
        offsets = np.searchsorted(rows, np.arange(shard.n_clients + 1) * n_items)
        epochs = tuple(self.epoch(drawn, rows) for drawn in draws)
        return TrainingPlan(shard, self.positives, offsets, rows % n_items, epochs)

    def epoch(self, drawn: Draws, rows: IntArray) -> Epoch:
        """Sort the pairs of an epoch by step, user and item."""
        n_steps = int(drawn.step.max(initial=-1)) + 1
        personalization = self.task.personalization
        whole = None
        if personalization.overrides("prepare", "after_epoch"):
            (whole,) = self.steps(drawn, np.zeros_like(drawn.step), 1, rows, None)
            if n_steps <= 1:
                return Epoch(drawn, (whole,), whole)
        return Epoch(drawn, tuple(self.steps(drawn, drawn.step, n_steps, rows, whole)), whole)

    def steps(
        self, drawn: Draws, step: IntArray, n_steps: int, rows: IntArray, whole: Step | None
    ) -> Sequence[Step]:
        n_users, n_items, k = self.shard.n_users, self.shard.n_items, self.task.train.negatives
        width = n_users * n_items
        visit = step * n_users + drawn.users
        positive = visit * n_items + drawn.items
        negative = visit[:, None] * n_items + drawn.negatives
        coded = [positive * 4, negative.ravel() * 4 + 1]
        if len(drawn.random_owners) or self.history is not None:
            coded += [key * 4 + 2 for key in self.further(drawn, _distinct(visit))]
        every = np.sort(np.concatenate(coded))
        keys, kind = every >> 2, every & 3
        first = np.ones(len(keys), bool)
        first[1:] = keys[1:] != keys[:-1]
        unique = np.cumsum(first) - 1
        keys = keys[first]
        is_positive = np.zeros(len(keys), np.float32)
        is_positive[unique[kind == 0]] = 1.0
        n_negative = np.bincount(unique[kind == 1], minlength=len(keys)).astype(np.float32)
        bounds = np.searchsorted(keys, np.arange(n_steps + 1) * width)
        pair = keys % width
        index = np.arange(len(keys))
        if whole is not None:
            epoch_pairs = whole.pairs.users.numpy() * n_items + whole.pairs.items.numpy()
            index = np.searchsorted(epoch_pairs, pair)
        clients = self.client_of_user[pair // n_items]
        items = pair % n_items
        row_keys = clients * n_items + items
        every_row = n_steps == 1 and np.array_equal(row_keys, rows)
        local_rows = np.arange(len(rows)) if every_row else np.searchsorted(rows, row_keys)
        in_step, starts = np.argsort(step, kind="stable"), np.zeros(1, np.int64)
        starts = np.searchsorted(step[in_step], np.arange(n_steps + 1))
        found = []
        for number in range(n_steps):
            part = slice(bounds[number], bounds[number + 1])
            chosen = in_step[starts[number] : starts[number + 1]]
            users = pair[part] // n_items
            batch = PairBatch(
                users=torch.from_numpy(users),
                items=torch.from_numpy(items[part]),
                clients=torch.from_numpy(clients[part]),
                labels=torch.from_numpy(is_positive[part]),
                offsets=offsets_of(np.bincount(users, minlength=n_users)),
                index=torch.from_numpy(index[part]),
            )
            pairwise = self.history is not None or self.task.train.loss == "bpr"
            at = np.zeros(0, np.int64), np.zeros((0, k), np.int64)
            if pairwise:
                at = (
                    np.searchsorted(keys[part], positive[chosen]),
                    np.searchsorted(keys[part], negative[chosen]),
                )
            found.append(
                self.step(
                    batch,
                    torch.from_numpy(local_rows[part]),
                    every_row,
                    drawn.users[chosen],
                    at,
                    is_positive[part],
                    n_negative[part],
                )
            )
        return found

    def further(self, drawn: Draws, visits: IntArray) -> list[IntArray]:
        """Return the keys of pairs that join every step of their user: random rows, histories."""
        n_users, n_items = self.shard.n_users, self.shard.n_items
        lengths = np.bincount(drawn.random_owners, minlength=n_users)
        joining = [Ragged(offsets_of(lengths), drawn.random_items)]
        if self.history is not None:
            items = self.shard.train.values[self.history.values]
            joining.append(Ragged(self.history.offsets, items))
        keys = []
        for rows in joining:
            chosen = rows.take(visits % n_users)
            keys.append(visits[chosen.owners()] * n_items + chosen.values)
        return keys

    def step(
        self,
        batch: PairBatch,
        local_rows: torch.Tensor,
        every_row: bool,
        users: IntArray,
        at: tuple[IntArray, IntArray],
        is_positive: FloatArray,
        n_negative: FloatArray,
    ) -> Step:
        scored = context = None
        positive, negative = at
        if self.history is not None:
            batch, of_pairs = self.with_history(batch)
            asked = np.concatenate([positive[:, None], negative], axis=1)
            scored = torch.from_numpy(asked.ravel())
            context = torch.from_numpy(np.repeat(of_pairs[positive], asked.shape[1]))
            place = np.arange(asked.size).reshape(asked.shape)
            positive, negative = place[:, 0], place[:, 1:]
            is_positive = np.zeros(asked.shape, np.float32)
            is_positive[:, 0] = 1.0
            n_negative = 1.0 - is_positive
        return Step(
            pairs=batch,
            local_rows=local_rows,
            every_row=every_row,
            owners=self.owners(batch, users),
            scored=scored,
            context=context,
            is_positive=torch.from_numpy(is_positive.ravel()),
            n_negative=torch.from_numpy(n_negative.ravel()),
            positive=torch.from_numpy(np.ascontiguousarray(positive)),
            negative=torch.from_numpy(np.ascontiguousarray(negative)),
        )

    def owners(self, batch: PairBatch, positive_users: IntArray) -> dict[str, Owners]:
        shard = self.shard
        of_user, of_client = np.diff(batch.offsets), batch.clients.numpy()
        users = np.flatnonzero(of_user)
        counts = np.bincount(of_client, minlength=shard.n_clients)
        clients = np.flatnonzero(counts)
        rank = np.cumsum(counts > 0) - 1
        n_positive = np.bincount(positive_users, minlength=shard.n_users)
        of_clients = np.bincount(self.client_of_user[positive_users], minlength=shard.n_clients)
        owners = {
            "user": Owners(
                users,
                np.repeat(np.arange(len(users)), of_user[users]),
                n_positive[users],
                rank[self.client_of_user[users]],
                offsets_of(of_user[users]),
            ),
            "client": Owners(
                clients,
                rank[of_client],
                of_clients[clients],
                rank[clients],
                offsets_of(counts[clients]),
            ),
        }
        if self.by_positive:
            at = self.positives.find(of_client, batch.items.numpy())
            present, index = np.unique(at[at >= 0], return_inverse=True)
            of_pairs = np.full(len(at), len(present))
            of_pairs[at >= 0] = index
            hits = np.bincount(of_pairs, batch.labels.numpy(), minlength=len(present) + 1).astype(
                np.int64
            )[:-1]
            whose = rank[self.positives.owners()[present]]
            owners["positive"] = Owners(present, of_pairs, hits, whose, None)
        return owners

    def with_history(self, batch: PairBatch) -> tuple[PairBatch, IntArray]:
        """Return a batch with the histories of its users, and what stands before each pair."""
        assert self.history is not None and self.task.model.window is not None
        n_items, history = self.shard.n_items, self.history
        present = np.diff(batch.offsets) > 0
        wanted = history.take(np.flatnonzero(present))
        user = np.flatnonzero(present)[wanted.owners()]
        keys = batch.users.numpy() * n_items + batch.items.numpy()
        at = np.searchsorted(keys, user * n_items + self.shard.train.values[wanted.values])
        lengths = np.where(present, history.lengths, 0)
        rows = Ragged(offsets_of(lengths), at)
        context = np.minimum(history.lengths, self.task.model.window - 1)[batch.users.numpy()]
        context[at] = np.arange(len(at)) - wanted.offsets[:-1][wanted.owners()]
        return replace(batch, history=rows, context=torch.from_numpy(context)), context


def _distinct(keys: IntArray) -> IntArray:
    """Return the distinct keys, sorted."""
    ordered = np.sort(keys)
    fresh = np.ones(len(ordered), bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return np.asarray(ordered[fresh])
