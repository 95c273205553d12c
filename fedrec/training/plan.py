"""What some clients train on in one round: draws, unique pairs, local rows. Flat and ragged."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fedrec.compute.batch import Histories, PairBatch
from fedrec.compute.device import to_array
from fedrec.personalization.base import Phase
from fedrec.ragged import Ragged, offsets_of
from fedrec.training.draws import Draws, draw_round, positives_of_clients, trained_positives
from fedrec.training.task import ClientTask
from fedrec.types import IntArray, Shard


@dataclass(frozen=True, slots=True)
class Owners:
    """Whose private values of one axis the pairs of a step use.

    Args:
        present: int64 [n], where the values lie among those of the plan's clients; sorted.
        index: int64 [q], for each pair a position in ``present``, n for none.
        offsets: int64 [n + 1], if the pairs stand owner after owner: the pairs of each.
    """

    present: IntArray
    index: IntArray
    offsets: IntArray | None


@dataclass(frozen=True, slots=True)
class Step:
    """One step of SGD, of every client that has a step of this number.

    What is scored are its pairs; of a model with a window each positive with its negatives, one
    after the other (``asked``), for they are scored from what stood before the positive.

    Args:
        pairs: Its unique pairs.
        local_rows: int64 [q], the local row of each pair.
        every_row: Whether these are all local rows, in their order.
        owners: Per axis of private parameters.
        is_positive: float32 [r], per score: 1 for a positive.
        n_negative: float32 [r], how often it was drawn as a negative.
        asked: int64 [p, 1 + k], the pairs of each positive and of its negatives, for pairwise
            losses and windows.
        context: int64 [r], how many items of the history stand before it, for a window.
    """

    pairs: PairBatch
    local_rows: torch.Tensor
    every_row: bool
    owners: Mapping[str, Owners]
    is_positive: torch.Tensor
    n_negative: torch.Tensor
    asked: torch.Tensor | None = None
    context: torch.Tensor | None = None

    @property
    def scored(self) -> torch.Tensor | None:
        """Return the pair of each score, int64 [r]; None: every pair once."""
        return None if self.context is None or self.asked is None else self.asked.ravel()


@dataclass(frozen=True, slots=True)
class Epoch:
    """One local epoch.

    Args:
        number: Counted over all phases.
        phase: To which it belongs.
        draws: What is random in it.
        steps: Its steps.
        every_pair: All its pairs as one step; None where nothing asks for them, or there are none.
    """

    number: int
    phase: Phase
    draws: Draws
    steps: tuple[Step, ...]
    every_pair: Step | None


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """All that some clients do in one round.

    Args:
        round: The round.
        shard: The clients.
        rows: One row per client: the items of its local rows, sorted.
        epochs: The local epochs.
    """

    round: int
    shard: Shard
    rows: Ragged
    epochs: tuple[Epoch, ...]

    def steps_of(self, name: str) -> Iterator[Step]:
        """Yield the steps that train a parameter."""
        for epoch in self.epochs:
            if name in (epoch.phase.parameters or ()):
                yield from epoch.steps

    def touched(self, name: str) -> torch.Tensor:
        """Return which local rows stand in steps that train an item table, bool [n]."""
        touched = torch.zeros(len(self.rows.values), dtype=torch.bool)
        for step in self.steps_of(name):
            touched[step.local_rows] = True
        return touched


def plan_training(
    task: ClientTask,
    shard: Shard,
    round: int,
    popularity: IntArray | None = None,
    remembered: Ragged | None = None,
    draws: Sequence[Draws] | None = None,
) -> TrainingPlan:
    """Draw everything that is random in a round, and sort it into steps and local rows.

    Args:
        task: What is trained.
        shard: The clients that train.
        round: The round.
        popularity: int64 [n_items], weights for popularity sampling.
        remembered: One row per client: further items that have a local row, though no pair.
        draws: What was drawn for each local epoch; None: it is drawn here.
    """
    drawn = draw_round(task, shard, round, popularity) if draws is None else draws
    return _Planner(task, shard).plan(round, drawn, remembered)


class _Planner:
    def __init__(self, task: ClientTask, shard: Shard) -> None:
        self.task, self.shard = task, shard
        self.one_user_each = shard.n_users == shard.n_clients
        self.positives = positives_of_clients(shard)
        self.target, self.history = trained_positives(task, shard)
        self.client_of_user = shard.client_of_user()
        axes = {s.axis for s in task.specs().values() if s.scope == "private"}
        self.by_positive = "positive" in axes

    def plan(self, round: int, draws: Sequence[Draws], remembered: Ragged | None) -> TrainingPlan:
        rows = self.local_rows(draws, remembered)
        needs_every_pair = self.task.personalization.overrides("prepare", "after_epoch")
        epochs = []
        for (number, phase), drawn in zip(self.task.epochs.items(), draws, strict=True):
            every_pair = None
            if needs_every_pair and drawn.step.any():
                (every_pair,) = self.steps(drawn, np.zeros_like(drawn.step), rows, None)
            steps = self.steps(drawn, drawn.step, rows, every_pair)
            if needs_every_pair and len(steps) == 1:
                (every_pair,) = steps
            epochs.append(Epoch(number, phase, drawn, steps, every_pair))
        clients = np.arange(self.shard.n_clients + 1)
        offsets = np.searchsorted(rows, clients * self.shard.n_items)
        local_rows = Ragged(offsets, rows % self.shard.n_items)
        return TrainingPlan(round, self.shard, local_rows, tuple(epochs))

    def local_rows(self, draws: Sequence[Draws], remembered: Ragged | None) -> IntArray:
        """Return client * n_items + item of every local row, sorted."""
        keys = [self.of_clients(self.coded(drawn, 0 * drawn.step) >> 2) for drawn in draws]
        if remembered is not None:
            keys.append(remembered.owners() * self.shard.n_items + remembered.values)
        return _distinct(np.concatenate(keys))

    def of_clients(self, keys: IntArray) -> IntArray:
        """Return client * n_items + item of keys of `coded`, int64 [q]."""
        n_items = self.shard.n_items
        pairs = keys % (self.shard.n_users * n_items)
        if self.one_user_each:
            return np.asarray(pairs)
        user, item = np.divmod(pairs, n_items)
        return np.asarray(self.client_of_user[user] * n_items + item)

    def coded(self, drawn: Draws, step: IntArray) -> IntArray:
        """Return all pairs of some steps, with repetitions.

        Args:
            drawn: What is random.
            step: int64 [p], the step of each positive.

        Returns:
            int64 [m]: 4 * key, with key (step * n_users + user) * n_items + item, plus 0 for a
            positive, 1 for a negative, 2 for a pair that joins every step of its user.
        """
        n_users, n_items = self.shard.n_users, self.shard.n_items
        visit = step * n_users + drawn.users
        negative = visit[:, None] * n_items + drawn.negatives
        coded = [(visit * n_items + drawn.items) * 4, negative.ravel() * 4 + 1]
        # Random rows and histories.
        joining = [drawn.random] if len(drawn.random.values) else []
        if self.history is not None:
            joining.append(self.target)
        visits = _distinct(visit) if joining else visit
        for items in joining:
            chosen = items.take(visits % n_users)
            coded.append((visits[chosen.owners()] * n_items + chosen.values) * 4 + 2)
        return np.concatenate(coded)

    def steps(
        self, drawn: Draws, step: IntArray, rows: IntArray, every_pair: Step | None
    ) -> tuple[Step, ...]:
        """Sort the unique pairs of an epoch into steps; int64 [p], the step of each positive."""
        n_items, width = self.shard.n_items, self.shard.n_users * self.shard.n_items
        every, n_steps = np.sort(self.coded(drawn, step)), int(step.max(initial=-1)) + 1
        keys, kind = every >> 2, every & 3
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        # What was drawn for a positive stands before what was drawn for a negative.
        is_positive = (kind[first] == 0).astype(np.float32)
        n_negative = np.add.reduceat((kind == 1).astype(np.float32), first)
        keys = keys[first]
        pair, row_keys = keys % width, self.of_clients(keys)
        users, items = np.divmod(pair, n_items)
        index = np.arange(len(pair))
        if every_pair is not None:
            of_epoch = every_pair.pairs
            in_epoch = to_array(of_epoch.users) * n_items + to_array(of_epoch.items)
            index = np.searchsorted(in_epoch, pair)
        every_row = n_steps == 1 and np.array_equal(row_keys, rows)
        local_rows = np.arange(len(rows)) if every_row else np.searchsorted(rows, row_keys)
        numbers = np.arange(n_steps + 1)
        bounds = np.searchsorted(keys, numbers * width)
        by_step = np.argsort(step, kind="stable")
        starts = np.searchsorted(step[by_step], numbers)
        steps = []
        for number in range(n_steps):
            at = slice(bounds[number], bounds[number + 1])
            chosen = by_step[starts[number] : starts[number + 1]]
            offsets = np.searchsorted(users[at], np.arange(self.shard.n_users + 1))
            batch = PairBatch(
                users=torch.as_tensor(users[at]),
                items=torch.as_tensor(items[at]),
                clients=torch.as_tensor(self.client_of_user[users[at]]),
                labels=torch.as_tensor(is_positive[at]),
                offsets=offsets,
                index=torch.as_tensor(index[at]),
            )
            made = Step(
                pairs=batch,
                local_rows=torch.as_tensor(local_rows[at]),
                every_row=every_row,
                owners=self.owners(users[at], items[at]),
                is_positive=batch.labels,
                n_negative=torch.as_tensor(n_negative[at]),
            )
            if self.history is not None or self.task.train.loss == "bpr":
                drawn_items = np.column_stack([drawn.items[chosen], drawn.negatives[chosen]])
                wanted = drawn.users[chosen][:, None] * n_items + drawn_items
                asked = torch.as_tensor(np.searchsorted(pair[at], wanted))
                made = replace(made, asked=asked)
                if self.history is not None:
                    made = self.with_history(made, asked, users[at], items[at])
            steps.append(made)
        return tuple(steps)

    def owners(self, users: IntArray, items: IntArray) -> dict[str, Owners]:
        """Return the owners of pairs, per axis."""
        owners, clients = {"user": _adjacent(users)}, self.client_of_user[users]
        owners["client"] = owners["user"] if self.one_user_each else _adjacent(clients)
        if self.by_positive:
            at = self.positives.find(clients, items)
            present, index = np.unique(at[at >= 0], return_inverse=True)
            of_pairs = np.full(len(at), len(present))
            of_pairs[at >= 0] = index
            owners["positive"] = Owners(present, of_pairs, None)
        return owners

    def with_history(
        self, step: Step, asked: torch.Tensor, users: IntArray, items: IntArray
    ) -> Step:
        """Return a step with the histories of its users, and what stands before each pair."""
        assert self.history is not None and self.task.model.window is not None
        batch, n_items, history = step.pairs, self.shard.n_items, self.history
        present = np.diff(batch.offsets) > 0
        wanted = history.take(np.flatnonzero(present))
        user = np.flatnonzero(present)[wanted.owners()]
        keys = users * n_items + items
        at = np.searchsorted(keys, user * n_items + self.shard.train.values[wanted.values])
        shard, rows = self.shard, Ragged(offsets_of(np.where(present, history.lengths, 0)), at)
        columns = (
            None if column is None else column[wanted.values]
            for column in (shard.timestamps, shard.ratings)
        )
        histories = Histories(rows, shard.train.values[wanted.values], *columns)
        before = np.minimum(history.lengths, self.task.model.window - 1)[users]
        before[at] = np.arange(len(at)) - wanted.offsets[:-1][wanted.owners()]
        context = torch.as_tensor(before)
        is_positive = torch.zeros(asked.shape)
        is_positive[:, 0] = 1.0
        return replace(
            step,
            pairs=replace(batch, history=histories, context=context),
            is_positive=is_positive.ravel(),
            n_negative=1.0 - is_positive.ravel(),
            context=context[asked[:, :1]].expand(asked.shape).ravel(),
        )


def _adjacent(at: IntArray) -> Owners:
    """Return the owners of pairs that stand owner after owner; int64 [q], the owner of each."""
    offsets = np.append(np.flatnonzero(np.diff(at, prepend=-1)), len(at))
    index = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return Owners(at[offsets[:-1]], index, offsets)


def _distinct(keys: IntArray) -> IntArray:
    """Return the distinct keys, sorted."""
    size = int(keys.max(initial=-1)) + 1
    if size <= 32 * len(keys):  # A mark for each possible key costs less than sorting.
        present = np.zeros(size, bool)
        present[keys] = True
        return np.flatnonzero(present)
    in_order = np.sort(keys)
    return np.asarray(in_order[np.flatnonzero(np.diff(in_order, prepend=-1))])
