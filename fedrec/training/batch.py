"""What some clients train on in one round: draws, unique pairs, touched rows. Flat and ragged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from fedrec.data.negatives import pool_excluded, popularity_negatives, uniform_negatives
from fedrec.seeds import Purpose, bits
from fedrec.types import IntArray, Ragged, Shard

if TYPE_CHECKING:
    from fedrec.config import Train

__all__ = ["Epoch", "Touched", "Work", "batch_steps", "plan_work", "positives_of_clients"]


@dataclass(frozen=True, slots=True)
class Touched:
    """The unique (user, item) pairs of a local epoch or of one step of it.

    Pairs stand user after user; users stand client after client. ``q`` pairs, ``u`` users, ``t``
    slots. A *slot* is a row of the working copy: one per client and touched item.

    Args:
        users: int64 [q], the user row of each pair.
        items: int64 [q].
        slots: int64 [q].
        labels: float [q], 1 for a positive, 0 for a sampled negative.
        offsets: int64 [u + 1], user ``u`` has pairs ``offsets[u]:offsets[u + 1]``.
        index: int64 [q], where each pair stands among the pairs of the whole epoch.
        clients: int64 [q], the client row of each pair.
    """

    users: torch.Tensor
    items: torch.Tensor
    slots: torch.Tensor
    labels: torch.Tensor
    offsets: IntArray
    index: torch.Tensor
    clients: torch.Tensor

    def select(self, chosen: IntArray, n_users: int) -> Touched:
        """Some of the pairs, in the same order.

        Args:
            chosen: int64 [k], sorted positions of pairs.
            n_users: number of user rows.
        """
        at = torch.from_numpy(chosen)
        users = self.users[at]
        counts = np.bincount(users.numpy(), minlength=n_users)
        return Touched(
            users=users,
            items=self.items[at],
            slots=self.slots[at],
            labels=self.labels[at],
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            index=self.index[at],
            clients=self.clients[at],
        )


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

    touched: Touched
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
class Work:
    """All that some clients do in one round.

    Args:
        shard: the clients.
        slot_offsets: int64 [c + 1], client ``k`` owns slots ``slot_offsets[k]:...[k + 1]``.
        slot_items: int64 [t], the item of each slot, sorted within a client.
        epochs: the local epochs.
    """

    shard: Shard
    slot_offsets: IntArray
    slot_items: IntArray
    epochs: tuple[Epoch, ...]


def plan_work(
    shard: Shard,
    train: Train,
    seed: int,
    round: int,
    protocol: Literal["clean", "legacy"] = "clean",
    popularity: IntArray | None = None,
    extra_rows: int = 0,
) -> Work:
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
    """
    n = shard.train.lengths
    user = shard.train.owners()
    within = np.arange(len(user), dtype=np.int64) - shard.train.offsets[:-1][user]
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
    user_keys = [user * shard.n_items + shard.train.values]
    user_keys += [np.repeat(user, k) * shard.n_items + drawn for drawn in negatives]
    user_keys += [owner * shard.n_items + items.astype(np.int64) for owner, items in extras]
    every = _distinct(np.concatenate(user_keys))
    slots = every
    if not np.array_equal(client_of_user, rows):
        slots = _distinct(
            client_of_user[every // shard.n_items] * shard.n_items + every % shard.n_items
        )
    slot_offsets = np.searchsorted(slots, np.arange(shard.n_clients + 1) * shard.n_items)

    epochs = []
    for epoch in range(train.local_epochs):
        step = batch_steps(shard, train.batch_size, seed, round, epoch)
        negative = np.repeat(user, k) * shard.n_items + negatives[epoch]
        positive = user * shard.n_items + shard.train.values
        owner, items = extras[epoch]
        extra = owner * shard.n_items + items.astype(np.int64)
        pairs = every
        if train.local_epochs > 1:
            pairs = _distinct(np.concatenate([positive, negative, extra]))
        pair_user, pair_item = pairs // shard.n_items, pairs % shard.n_items
        pair_client = client_of_user[pair_user]
        positive_at = np.searchsorted(pairs, positive)
        labels = np.zeros(len(pairs), np.float32)
        labels[positive_at] = 1.0
        touched = Touched(
            users=torch.from_numpy(pair_user),
            items=torch.from_numpy(pair_item),
            slots=torch.from_numpy(np.searchsorted(slots, pair_client * shard.n_items + pair_item)),
            labels=torch.from_numpy(labels),
            offsets=np.searchsorted(pairs, np.arange(shard.n_users + 1) * shard.n_items),
            index=torch.arange(len(pairs)),
            clients=torch.from_numpy(pair_client),
        )
        epochs.append(
            Epoch(
                touched=touched,
                positive=positive_at,
                negative=np.searchsorted(pairs, negative).reshape(-1, k),
                step=step,
                client=client,
                user=user,
                extra=np.searchsorted(pairs, extra),
            )
        )
    return Work(shard, slot_offsets, slots % shard.n_items, tuple(epochs))


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
    client = shard.client_of_user()[shard.train.owners()]
    keys = np.unique(client * shard.n_items + shard.train.values)
    offsets = np.searchsorted(keys, np.arange(shard.n_clients + 1) * shard.n_items)
    return Ragged(offsets.astype(np.int64), keys % shard.n_items)
