"""Where the private values of clients lie in arrays, axis by axis."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from fedrec.training.client_rule import SEEN_ITEMS
from fedrec.training.task import ClientTask
from fedrec.types import IntArray, Params, Ragged, Shard, offsets_of


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
        axes = {spec.axis for spec in task.locals().values()}
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
    train, n = task.train, shard.train.lengths
    of_user = n * (1 + train.negatives * train.local_epochs)
    of_user += (n > 0) * (task.personalization.random_rows * train.local_epochs)
    total = np.bincount(shard.client_of_user(), of_user, shard.n_clients).astype(np.int64)
    return offsets_of(np.minimum(total, shard.n_items))


def seen_items(task: ClientTask, shard: Shard, local: Params) -> Ragged | None:
    """Return the items that clients remember, one row per client, sorted; None without memory."""
    if SEEN_ITEMS not in local:
        return None
    places = capacity(shard, task)
    owners = Ragged(places, places).owners()
    used = local[SEEN_ITEMS] >= 0
    lengths = np.bincount(owners[used], minlength=shard.n_clients)
    return Ragged(offsets_of(lengths), local[SEEN_ITEMS][used].astype(np.int64))
