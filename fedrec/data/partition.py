"""Which client holds which users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedrec.data.ids import hash_ids, mix_seed
from fedrec.data.taste import taste_groups
from fedrec.errors import ConfigError, did_you_mean
from fedrec.types import IntArray, Interactions, Ragged, offsets_of

if TYPE_CHECKING:
    from fedrec.data.clients import Clients

__all__ = ["assign_clients", "clients_of"]


def assign_clients(data: Interactions, train: Ragged, clients: Clients) -> Ragged:
    """Give every user to one client.

    Args:
        data: The interactions after all filters; only ids and user columns are looked at.
        train: one row per user, its train items: all that the groups of taste may see.
        clients: How, with the seed.

    Returns:
        One row per client, its users, sorted. Total and disjoint; clients are numbered by their
        smallest user, and the seed alone decides what is random.

    Raises:
        ConfigError: If there are fewer users than clients, or no such column.
        MissingExtra: If groups of taste are asked for and scipy is not installed.
    """
    n_users = len(data.user_ids)
    count = clients.count or 0
    if clients.by in ("random", "taste") and count > n_users:
        raise ConfigError(
            f"clients.count: expected at most {n_users}, the number of users, got {count}"
        )
    if clients.by == "random":
        order = np.argsort(mix_seed(clients.seed, hash_ids(data.user_ids)), kind="stable")
        labels = np.empty(n_users, np.int64)
        labels[order] = np.arange(n_users, dtype=np.int64) % count
        return clients_of(labels)
    if clients.by == "column":
        column = clients.column or ""
        if column not in data.user_columns:
            raise ConfigError(
                f"clients.column: {data.name} has no user column '{column}'"
                f"{did_you_mean(column, data.user_columns)}"
            )
        return clients_of(data.user_columns[column])
    if clients.by == "taste":
        return clients_of(taste_groups(train, len(data.item_ids), count, clients.seed))
    return clients_of(np.arange(n_users, dtype=np.int64))


def clients_of(labels: NDArray[Any]) -> Ragged:
    """One client per label, numbered by its smallest user.

    Args:
        labels: [n_users], what the users of a client share.

    Returns:
        One row per client, its users, sorted.
    """
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int64)
    client: IntArray = rank[inverse.reshape(-1)]
    return Ragged(
        offsets_of(np.bincount(client, minlength=len(first))), np.argsort(client, kind="stable")
    )
