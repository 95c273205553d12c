"""A split after somebody has altered what clients train on."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedrec.ragged import Ragged, offsets_of
from fedrec.types import FloatArray, IntArray, Split


def of_clients(split: Split, clients: IntArray) -> Split:
    """Return the data of some clients alone; they, and their users in turn, are renumbered.

    Args:
        split: The split.
        clients: int64 [c], sorted.
    """
    shard = split.shard(clients)
    users = shard.user_ids
    return replace(
        split,
        train=shard.train,
        valid=shard.valid,
        test=shard.test,
        clients=Ragged(shard.client_offsets, np.arange(len(users))),
        timestamps=shard.timestamps,
        ratings=shard.ratings,
        user_ids=split.user_ids[users],
        user_columns={name: cells[users] for name, cells in split.user_columns.items()},
    )


def with_clients(split: Split, train: Ragged, like: IntArray, name: str) -> Split:
    """Return a split with more clients, of one user each; they have nothing held out.

    They train with the best rating, at the times of interactions that are drawn evenly from all.

    Args:
        split: The split.
        train: One row per new client: its train items, sorted.
        like: int64 [n], the users whose columns the new ones have.
        name: The raw ids are it and a number; in front of it as many ``_`` as tell them apart.
    """
    n, users, clients = len(train), split.n_users, split.clients
    while any(text.startswith(f"{name}-") for text in split.user_ids.tolist()):
        name = f"_{name}"
    ids = np.array([f"{name}-{number}" for number in range(1, n + 1)], object)
    nothing = Ragged(np.zeros(n + 1, np.int64), np.zeros(0, np.int64))
    times, ratings, size = split.timestamps, split.ratings, len(train.values)
    if times is not None:
        evenly = np.arange(size) * len(times) // max(size, 1)
        times = np.concatenate([times, times[evenly]])
    if ratings is not None:
        ratings = np.concatenate([ratings, np.full(size, ratings.max())])
    return replace(
        split,
        train=_joined(split.train, train),
        valid=_joined(split.valid, nothing),
        test=_joined(split.test, nothing),
        clients=_joined(clients, Ragged(np.arange(n + 1), users + np.arange(n))),
        timestamps=times,
        ratings=ratings,
        user_ids=np.concatenate([split.user_ids, ids]),
        user_columns={
            column: np.concatenate([cells, cells[like]])
            for column, cells in split.user_columns.items()
        },
    )


def with_train_items(
    split: Split, users: IntArray, items: Sequence[IntArray], places: Sequence[IntArray]
) -> Split:
    """Return a split in which some users train on other items and have nothing held out.

    Args:
        split: The split.
        users: int64 [u], the users.
        items: Per user its train items, in any order.
        places: Per item, where in ``split.train.values`` the interaction stands whose rating and
            time it gets.
    """
    before = split.train.owners()
    stays = np.flatnonzero(~np.isin(before, users))
    owners = np.concatenate([before[stays], np.repeat(users, [len(each) for each in items])])
    values = np.concatenate([split.train.values[stays], *items])
    in_rows = np.lexsort((values, owners))
    at = np.concatenate([stays, *places])[in_rows]

    def rearranged(column: FloatArray | None) -> FloatArray | None:
        return None if column is None else column[at]

    def emptied(held_out: Ragged) -> Ragged:
        return held_out.where(~np.isin(held_out.owners(), users))

    offsets = offsets_of(np.bincount(owners, minlength=split.n_users))
    return replace(
        split,
        train=Ragged(offsets, values[in_rows]),
        valid=emptied(split.valid),
        test=emptied(split.test),
        timestamps=rearranged(split.timestamps),
        ratings=rearranged(split.ratings),
    )


def _joined(first: Ragged, second: Ragged) -> Ragged:
    offsets = np.concatenate([first.offsets, first.offsets[-1] + second.offsets[1:]])
    return Ragged(offsets, np.concatenate([first.values, second.values]))
