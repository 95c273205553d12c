"""What is random in a client's round: negatives, batches, random rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fedrec.data.negatives import pool_excluded, popularity_negatives, uniform_negatives
from fedrec.seeds import Purpose, bits
from fedrec.training.history import latest
from fedrec.types import IntArray, Ragged, Shard

if TYPE_CHECKING:
    from fedrec.training.task import ClientTask

__all__ = ["Draws", "batch_steps", "draw_round", "trained_positives"]


@dataclass(frozen=True, slots=True)
class Draws:
    """What is random in a local epoch.

    Args:
        users: int64 [p], the user row of each positive; ascending.
        items: int64 [p], the positives.
        negatives: int64 [p, k], the items drawn for each.
        step: int64 [p], the step in which it is used.
        random_owners: int64 [e], the user rows of random rows; ascending.
        random_items: int64 [e].
    """

    users: IntArray
    items: IntArray
    negatives: IntArray
    step: IntArray
    random_owners: IntArray
    random_items: IntArray


def draw_round(
    task: ClientTask, shard: Shard, round: int, popularity: IntArray | None = None
) -> list[Draws]:
    """Draw for every local epoch of a round.

    Args:
        task: What is trained.
        shard: The clients.
        round: The round.
        popularity: int64 [n_items], weights for popularity sampling.
    """
    target, _ = trained_positives(task, shard)
    epochs = range(task.train.local_epochs)
    return [_draw(task, shard, target, round, epoch, popularity) for epoch in epochs]


def trained_positives(task: ClientTask, shard: Shard) -> tuple[Ragged, Ragged | None]:
    """Return what each user is trained on, and of a model with a window where its history lies.

    Args:
        task: What is trained.
        shard: The clients.

    Returns:
        One row per user row: items, sorted; and places in ``shard.train.values``, oldest first.
    """
    if task.model.window is None:
        return shard.train, None
    history = latest(shard, task.model.window)
    chosen = np.sort(history.values)
    return Ragged(history.offsets, shard.train.values[chosen]), history


def _draw(
    task: ClientTask,
    shard: Shard,
    target: Ragged,
    round: int,
    epoch: int,
    popularity: IntArray | None,
) -> Draws:
    n, user, k = target.lengths, target.owners(), task.train.negatives
    excluded = pool_excluded(shard, task.protocol)
    within = np.arange(len(user), dtype=np.int64) - target.offsets[:-1][user]
    draw = ((epoch * n[user] + within)[:, None] * k + np.arange(k)).ravel()
    owner = np.repeat(user, k)
    hashed = bits(task.seed, Purpose.NEGATIVES, round, shard.user_ids[owner], draw)
    if popularity is None:
        high = (hashed >> np.uint64(32)).astype(np.uint32)
        negatives = uniform_negatives(high, owner, excluded, shard.n_items)
    else:
        negatives = popularity_negatives(hashed, owner, excluded, popularity)
    extra = task.personalization.random_rows
    trained = np.flatnonzero(n > 0)
    owner = np.repeat(trained, extra)
    draw = epoch * extra + np.tile(np.arange(extra), len(trained))
    hashed = bits(task.seed, Purpose.EXTRA_ROWS, round, shard.user_ids[owner], draw)
    items = ((hashed >> np.uint64(32)) * np.uint64(shard.n_items)) >> np.uint64(32)
    step = batch_steps(replace(shard, train=target), task.train.batch_size, task.seed, round, epoch)
    return Draws(user, target.values, negatives.reshape(-1, k), step, owner, items.astype(np.int64))


def batch_steps(shard: Shard, batch_size: int | str, seed: int, round: int, epoch: int) -> IntArray:
    """Return the step of each positive, int64 [p]; a client's positives are shuffled by hash.

    Args:
        shard: The clients.
        batch_size: Positives per step, or ``full``.
        seed: The run's seed.
        round: The round.
        epoch: The local epoch.
    """
    target, user = shard.train, shard.train.owners()
    if batch_size == "full":
        return np.zeros(len(user), np.int64)
    within = np.arange(len(user), dtype=np.int64) - target.offsets[:-1][user]
    client = shard.client_of_user()[user]
    draw = epoch * target.lengths[user] + within
    keys = bits(seed, Purpose.BATCHES, round, shard.user_ids[user], draw)
    order = np.lexsort((keys, client))
    starts = np.searchsorted(client[order], client[order])
    step = np.empty(len(user), np.int64)
    step[order] = (np.arange(len(user)) - starts) // int(batch_size)
    return step
