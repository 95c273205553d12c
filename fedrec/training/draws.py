"""What clients hold and what they draw: positives, where private values lie, negatives, steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedrec.data.history import latest
from fedrec.data.negatives import pool_excluded, popularity_negatives, uniform_negatives
from fedrec.errors import ConfigError, DataError
from fedrec.models.base import Model
from fedrec.ragged import Ragged, offsets_of
from fedrec.seeds import Purpose, bits
from fedrec.training.client_rule import SEEN_ITEMS
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, IntArray, Params, Shard

_32 = np.uint64(32)


@dataclass(frozen=True, slots=True)
class Draws:
    """What is random in a local epoch.

    Args:
        users: int64 [p], the user row of each positive; ascending.
        items: int64 [p], the positives.
        negatives: int64 [p, k], the items drawn for each.
        step: int64 [p], the step in which it is used.
        random: Random items, one row per user row.
    """

    users: IntArray
    items: IntArray
    negatives: IntArray
    step: IntArray
    random: Ragged


def draw_round(
    task: ClientTask, shard: Shard, round: int, popularity: IntArray | None = None
) -> list[Draws]:
    """Draw for every local epoch of a round; see `fedrec.training.plan.plan_training`.

    Each draw is a hash of (seed, round, user, draw), so it does not matter which clients are
    drawn for together.
    """
    target, _ = trained_positives(task, shard)
    excluded = pool_excluded(shard, task.protocol)
    user, k, extra = target.owners(), task.train.negatives, task.personalization.random_rows
    n, within = target.lengths[user], np.arange(len(user)) - target.offsets[user]
    owner = np.repeat(user, k)
    random = offsets_of(np.where(target.lengths > 0, extra, 0))
    random_owner = np.repeat(np.arange(shard.n_users), np.diff(random))
    random_draw = np.arange(len(random_owner)) - random[random_owner]
    draws = []
    for epoch in task.epochs:
        draw = ((epoch * n + within)[:, None] * k + np.arange(k)).ravel()
        hashed = bits(task.seed, Purpose.NEGATIVES, round, shard.user_ids[owner], draw)
        if task.model.overrides("negatives"):
            positives = np.repeat(target.values, k)
            negatives = _of_model(task, shard, hashed, owner, positives, excluded)
        elif popularity is None:
            high = (hashed >> _32).astype(np.uint32)
            negatives = uniform_negatives(high, owner, excluded, shard.n_drawn)
        else:
            negatives = popularity_negatives(hashed, owner, excluded, popularity)
        ids, draw = shard.user_ids[random_owner], epoch * extra + random_draw
        hashed = bits(task.seed, Purpose.EXTRA_ROWS, round, ids, draw)
        items = (((hashed >> _32) * np.uint64(shard.n_drawn)) >> _32).astype(np.int64)
        step = batch_steps(shard, target, task.train.batch_size, task.seed, round, epoch)
        negatives = negatives.reshape(-1, k)
        draws.append(Draws(user, target.values, negatives, step, Ragged(random, items)))
    return draws


def _of_model(
    task: ClientTask,
    shard: Shard,
    hashed: NDArray[np.uint64],
    users: IntArray,
    positives: IntArray,
    excluded: Ragged,
) -> IntArray:
    """Return the negatives that a model draws, int64 [n]; see `fedrec.models.base.Model.negatives`.

    Raises:
        ConfigError: If it returns something else.
    """
    source, n_items = f"model {type(task.model).__name__}: negatives", shard.n_drawn
    drawn: object = task.model.negatives(
        hashed, users, positives, excluded, n_items, task.catalogue
    )
    came = f"{type(drawn).__name__}"
    if isinstance(drawn, np.ndarray):
        came = f"{drawn.dtype} of the shape {drawn.shape}"
        if drawn.dtype.kind in "iu" and drawn.shape == users.shape:
            items = drawn.astype(np.int64)
            wrong = (items < 0) | (items >= n_items)
            wrong[~wrong] = shard.train.find(users[~wrong], items[~wrong]) >= 0
            if not wrong.any():
                return items
            came = f"item {items[wrong][0]}"
            wanted = f"items from 0 to {n_items - 1} that are not among the user's train items"
            raise ConfigError(f"{source} returned {came}; expected {wanted}")
    raise ConfigError(f"{source} returned {came}; expected int64 of the shape {users.shape}")


def trained_positives(task: ClientTask, shard: Shard) -> tuple[Ragged, Ragged | None]:
    """Return what each user is trained on, and of a model with a window where its history lies.

    One row per user row: items, sorted; and places in ``shard.train.values``, oldest first.
    """
    if task.model.window is None:
        return shard.train, None
    history = latest(shard, task.model.window)
    chosen = np.sort(history.values)
    return Ragged(history.offsets, shard.train.values[chosen]), history


def batch_steps(
    shard: Shard, target: Ragged, batch_size: int | str, seed: int, round: int, epoch: int
) -> IntArray:
    """Return the step of each positive, int64 [p]; a client's positives are shuffled by hash.

    ``target`` has one row per user row: what it is trained on.
    """
    user = target.owners()
    step = np.zeros(len(user), np.int64)
    if batch_size == "full":
        return step
    draw = epoch * target.lengths[user] + np.arange(len(user)) - target.offsets[user]
    keys = bits(seed, Purpose.BATCHES, round, shard.user_ids[user], draw)
    client = shard.client_of_user()[user]
    shuffled = np.lexsort((keys, client))
    starts = np.searchsorted(client[shuffled], client[shuffled])
    step[shuffled] = (np.arange(len(user)) - starts) // int(batch_size)
    return step


def check_order(model: Model, timestamps: FloatArray | None, name: str) -> None:
    """Check that data has the order that a model looks at.

    Args:
        model: The client model.
        timestamps: of the train items, or None.
        name: of the data set.

    Raises:
        DataError: If it has none.
    """
    if model.window is not None and model.needs_times and timestamps is None:
        raise DataError(
            f"model: {type(model).__name__} looks at the order of a user's items, but {name} has "
            "no timestamps; name their column in data.columns.timestamp or take another model"
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """The one place that knows how private values are laid out: client after client.

    Args:
        shard: The clients.
        offsets: Per axis that the task uses, int64 [c + 1]: where each client's values begin.
        positives: One row per client: the items of the axis ``positive``.
    """

    shard: Shard
    offsets: Mapping[str, IntArray]
    positives: Ragged

    @classmethod
    def of(cls, task: ClientTask, shard: Shard) -> Self:
        """Lay out the private values of a task."""
        positives = positives_of_clients(shard)
        offsets = {
            "user": shard.client_offsets,
            "client": np.arange(shard.n_clients + 1, dtype=np.int64),
            "positive": positives.offsets,
            "seen_item": capacity(shard, task),
        }
        axes = {spec.axis for spec in task.stored_specs().values()}
        return cls(shard, {a: o for a, o in offsets.items() if a in axes}, positives)

    def positions(self, clients: IntArray) -> dict[str, IntArray]:
        """Return where the values of some clients lie, per axis.

        Args:
            clients: int64 [c], client rows, in the order wanted.
        """
        return {a: Ragged(o, o).positions(clients) for a, o in self.offsets.items()}

    def owner_ids(self) -> dict[str, IntArray]:
        """Return the id of each value's owner, per axis; it does not depend on other clients."""
        clients = self.shard.client_ids[self.positives.owners()]
        ids = {
            "user": self.shard.user_ids,
            "client": self.shard.client_ids,
            "positive": clients * self.shard.n_items + self.positives.values,
        }
        if "seen_item" in self.offsets:
            ids["seen_item"] = np.arange(self.offsets["seen_item"][-1], dtype=np.int64)
        return {axis: ids[axis] for axis in self.offsets}


def positives_of_clients(shard: Shard) -> Ragged:
    """Return one row per client: the union of its users' train items, sorted."""
    if np.array_equal(shard.client_offsets, np.arange(shard.n_users + 1)):
        return shard.train
    client = shard.client_of_user()[shard.train.owners()]
    keys = np.unique(client * shard.n_items + shard.train.values)
    offsets = np.searchsorted(keys, np.arange(shard.n_clients + 1) * shard.n_items)
    return Ragged(offsets.astype(np.int64), keys % shard.n_items)


def capacity(shard: Shard, task: ClientTask) -> IntArray:
    """Return where each client's ``seen_item`` values begin, int64 [c + 1].

    A client has as many as it may touch items in a round.
    """
    epochs, n = len(task.epochs), shard.train.lengths
    of_user = n * (1 + task.train.negatives * epochs)
    of_user += (n > 0) * (task.personalization.random_rows * epochs)
    total = np.bincount(shard.client_of_user(), of_user, shard.n_clients).astype(np.int64)
    return offsets_of(np.minimum(total, shard.n_items))


def remembered_items(task: ClientTask, shard: Shard, local: Params) -> Ragged | None:
    """Return the items whose rows the client rule remembers, one row per client, sorted.

    None where it remembers none.
    """
    rule = task.client_rule
    if rule.memory and rule.remembers == "positives" and task.tables():
        return positives_of_clients(shard)
    if SEEN_ITEMS not in local:
        return None
    places = capacity(shard, task)
    owners = Ragged(places, places).owners()
    used = local[SEEN_ITEMS] >= 0
    lengths = np.bincount(owners[used], minlength=shard.n_clients)
    return Ragged(offsets_of(lengths), local[SEEN_ITEMS][used].astype(np.int64))
