"""What some clients train on in one round: draws, unique pairs, touched rows. Flat and ragged."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from fedrec.compute.batch import PairBatch
from fedrec.data.negatives import pool_excluded, popularity_negatives, uniform_negatives
from fedrec.seeds import Purpose, bits
from fedrec.training.history import latest
from fedrec.types import IntArray, Ragged, Shard

if TYPE_CHECKING:
    from fedrec.training.settings import Train

__all__ = [
    "Epoch",
    "TrainingPlan",
    "batch_steps",
    "plan_training",
    "positives_of_clients",
]


@dataclass(frozen=True, slots=True)
class Epoch:
    """One local epoch.

    Args:
        touched: its unique pairs.
        positive: int64 [p], the pair of each positive.
        negative: int64 [p, k], the pairs of its sampled negatives.
        step: int64 [p], the step in which the positive is used.
        client: int64 [p], the client row of the positive.
        user: int64 [p], the user row of the positive.
        extra: int64 [e], the pairs of the extra rows; they join every step of their user.
    """

    touched: PairBatch
    positive: IntArray
    negative: IntArray
    step: IntArray
    client: IntArray
    user: IntArray
    extra: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def steps(self) -> int:
        """Number of steps of the client that has most."""
        return int(self.step.max(initial=-1)) + 1


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """All that some clients do in one round.

    Args:
        shard: the clients.
        row_offsets: int64 [c + 1], client ``k`` owns slots ``slot_offsets[k]:...[k + 1]``.
        row_items: int64 [t], the item of each slot, sorted within a client.
        epochs: the local epochs.
    """

    shard: Shard
    row_offsets: IntArray
    row_items: IntArray
    epochs: tuple[Epoch, ...]


def plan_training(
    shard: Shard,
    train: Train,
    seed: int,
    round: int,
    protocol: Literal["clean", "legacy"] = "clean",
    popularity: IntArray | None = None,
    extra_rows: int = 0,
    remembered: Ragged | None = None,
    window: int | None = None,
) -> TrainingPlan:
    """Draw everything that is random in a round.

    Each draw is a hash of (seed, round, user, draw), so it does not matter which clients are
    drawn for together.

    Args:
        shard: The clients that train.
        train: negatives, epochs, batch size.
        seed: The run's seed.
        round: The round.
        protocol: ``clean`` or ``legacy``, which items are never drawn as negatives.
        popularity: int64 [n_items], weights for popularity sampling.
        extra_rows: Random items per user and epoch that count as touched, without a label; none
            for a user that has nothing to train on.
        remembered: One row per client: further items that have a slot, though no pair.
        window: Of a model with one; only so many latest train items of a user are trained on, the
            earlier ones have a slot, though no pair.
    """
    history = None if window is None else latest(shard, window)
    target = shard.train if history is None else _sorted_rows(shard.train, history)
    n = target.lengths
    user = target.owners()
    within = np.arange(len(user), dtype=np.int64) - target.offsets[:-1][user]
    client = shard.client_of_user()[user]
    excluded = pool_excluded(shard, protocol)
    k = train.negatives
    rows = np.arange(shard.n_users, dtype=np.int64)
    trained = np.flatnonzero(n > 0)

    negatives, extras = [], []
    for epoch in range(train.local_epochs):
        draw = ((epoch * n[user] + within)[:, None] * k + np.arange(k)).ravel()
        owner = np.repeat(user, k)
        hashed = bits(seed, Purpose.NEGATIVES, round, shard.user_ids[owner], draw)
        if popularity is None:
            drawn = uniform_negatives(
                (hashed >> np.uint64(32)).astype(np.uint32), owner, excluded, shard.n_items
            )
        else:
            drawn = popularity_negatives(hashed, owner, excluded, popularity)
        negatives.append(drawn)
        owner = np.repeat(trained, extra_rows)
        draw = epoch * extra_rows + np.tile(np.arange(extra_rows), len(trained))
        hashed = bits(seed, Purpose.EXTRA_ROWS, round, shard.user_ids[owner], draw)
        extras.append(
            (owner, ((hashed >> np.uint64(32)) * np.uint64(shard.n_items)) >> np.uint64(32))
        )

    client_of_user = shard.client_of_user()
    known = shard.train.owners() * shard.n_items + shard.train.values
    user_keys = [user * shard.n_items + target.values]
    user_keys += [np.repeat(user, k) * shard.n_items + drawn for drawn in negatives]
    user_keys += [owner * shard.n_items + items.astype(np.int64) for owner, items in extras]
    every = _distinct(np.concatenate(user_keys))
    # Train items before the window have values of their own (`per: row`), so they need a slot too.
    local_rows = every if history is None else _distinct(np.concatenate([every, known]))
    if not np.array_equal(client_of_user, rows):
        local_rows = _distinct(
            client_of_user[local_rows // shard.n_items] * shard.n_items + local_rows % shard.n_items
        )
    if remembered is not None:
        kept = remembered.owners() * shard.n_items + remembered.values
        local_rows = _distinct(np.concatenate([local_rows, kept]))
    row_offsets = np.searchsorted(local_rows, np.arange(shard.n_clients + 1) * shard.n_items)

    epochs = []
    for epoch in range(train.local_epochs):
        step = batch_steps(replace(shard, train=target), train.batch_size, seed, round, epoch)
        negative = np.repeat(user, k) * shard.n_items + negatives[epoch]
        positive = user * shard.n_items + target.values
        owner, items = extras[epoch]
        extra = owner * shard.n_items + items.astype(np.int64)
        pairs = every
        if train.local_epochs > 1:
            pairs = _distinct(np.concatenate([positive, negative, extra]))
        pair_user, pair_item = pairs // shard.n_items, pairs % shard.n_items
        pair_client = client_of_user[pair_user]
        labels = np.zeros(len(pairs), np.float32)
        labels[np.searchsorted(pairs, positive)] = 1.0
        touched = PairBatch(
            users=torch.from_numpy(pair_user),
            items=torch.from_numpy(pair_item),
            local_rows=torch.from_numpy(
                np.searchsorted(local_rows, pair_client * shard.n_items + pair_item)
            ),
            labels=torch.from_numpy(labels),
            offsets=np.searchsorted(pairs, np.arange(shard.n_users + 1) * shard.n_items),
            index=torch.arange(len(pairs)),
            clients=torch.from_numpy(pair_client),
        )
        if history is not None and window is not None:
            at = np.searchsorted(pairs, known[history.values])
            touched = _with_history(touched, Ragged(history.offsets, at), window)
        epochs.append(
            Epoch(
                touched=touched,
                positive=np.searchsorted(pairs, positive),
                negative=np.searchsorted(pairs, negative).reshape(-1, k),
                step=step,
                client=client,
                user=user,
                extra=np.searchsorted(pairs, extra),
            )
        )
    return TrainingPlan(shard, row_offsets, local_rows % shard.n_items, tuple(epochs))


def _sorted_rows(train: Ragged, chosen: Ragged) -> Ragged:
    """Some of the values of each row, in their order there."""
    return Ragged(chosen.offsets, train.values[np.sort(chosen.values)])


def _with_history(touched: PairBatch, history: Ragged, window: int) -> PairBatch:
    """Pairs with what stands before each."""
    before = np.minimum(history.lengths, window - 1)[touched.users.numpy()]
    place = np.arange(len(history.values)) - history.offsets[:-1][history.owners()]
    before[history.values] = place
    return replace(touched, history=history, context=torch.from_numpy(before))


def _distinct(keys: IntArray) -> IntArray:
    """The distinct keys, sorted."""
    ordered = np.sort(keys)
    fresh = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]
    return np.asarray(ordered[fresh])


def batch_steps(shard: Shard, batch_size: int | str, seed: int, round: int, epoch: int) -> IntArray:
    """int64 [p]: the step of each positive; a client's positives are shuffled by hash.

    Args:
        shard: The clients.
        batch_size: Positives per step, or ``full``.
        seed: The run's seed.
        round: The round.
        epoch: The local epoch.
    """
    user = shard.train.owners()
    if batch_size == "full":
        return np.zeros(len(user), np.int64)
    within = np.arange(len(user), dtype=np.int64) - shard.train.offsets[:-1][user]
    client = shard.client_of_user()[user]
    draw = epoch * shard.train.lengths[user] + within
    keys = bits(seed, Purpose.BATCHES, round, shard.user_ids[user], draw)
    order = np.lexsort((keys, client))
    starts = np.searchsorted(client[order], client[order])
    step = np.empty(len(user), np.int64)
    step[order] = (np.arange(len(user)) - starts) // int(batch_size)
    return step


def positives_of_clients(shard: Shard) -> Ragged:
    """One row per client: the union of its users' train items, sorted."""
    if np.array_equal(shard.client_offsets, np.arange(shard.n_users + 1)):
        return shard.train
    client = shard.client_of_user()[shard.train.owners()]
    keys = _distinct(client * shard.n_items + shard.train.values)
    offsets = np.searchsorted(keys, np.arange(shard.n_clients + 1) * shard.n_items)
    return Ragged(offsets.astype(np.int64), keys % shard.n_items)
