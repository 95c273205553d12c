"""Who is a client: the section ``clients`` of an experiment, and which client holds which users."""

import warnings
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fedrec.data.ids import hash_ids, mix_seed
from fedrec.errors import ConfigError, did_you_mean, require
from fedrec.plugins import Section
from fedrec.ragged import Ragged, offsets_of
from fedrec.types import FloatArray, IntArray, Interactions

RANK, STEPS = 16, 50


class Clients(Section):
    """Who is a client.

    Args:
        by: ``user`` (one user each), ``random`` (``count`` random groups), ``column`` (users that
            share the value of a user column) or ``taste`` (``count`` groups of similar users,
            computed from the train items alone).
        count: number of clients, for ``random`` and ``taste``.
        column: name of the user column, for ``column``.
        seed: of the grouping; not the run's seed, so that runs share their clients.
    """

    by: Literal["user", "random", "column", "taste"] = "user"
    count: int | None = Field(None, ge=1)
    column: str | None = None
    seed: int = Field(0, ge=0)

    def without_effect(self, run: Any) -> list[str]:
        """Say which options belong to another way of grouping."""
        used = {"random": ("count", "seed"), "taste": ("count", "seed"), "column": ("column",)}
        others = [n for n in ("count", "column", "seed") if n not in used.get(self.by, ())]
        return self.unused(f"by: {self.by} does not use it", *others)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.by in ("random", "taste") and self.count is None:
            raise ValueError(f"by: {self.by} needs 'count', the number of clients")
        if self.by == "column" and self.column is None:
            raise ValueError("by: column needs 'column', the name of a user column")
        return self


def assign_clients(data: Interactions, train: Ragged, clients: Clients) -> Ragged:
    """Give every user to one client.

    Args:
        data: The interactions after all filters; only ids and user columns are looked at.
        train: one row per user, its train items: all that the groups of taste may see.
        clients: How they are grouped.

    Returns:
        One row per client, its users, sorted; clients are numbered by their smallest user.

    Raises:
        ConfigError: If there are fewer users than clients, or no such column.
        MissingExtra: If groups of taste are asked for and scipy is not installed.
    """
    n_users, count, column = len(data.user_ids), clients.count or 0, clients.column or ""
    if clients.by in ("random", "taste") and count > n_users:
        raise ConfigError(
            f"clients.count: expected at most {n_users}, the number of users, got {count}"
        )
    if clients.by == "column":
        if column not in data.user_columns:
            hint = did_you_mean(column, data.user_columns) or " (it has none)"
            raise ConfigError(f"clients.column: {data.name} has no user column '{column}'{hint}")
        return clients_of(data.user_columns[column])
    if clients.by == "taste":
        return clients_of(taste_groups(train, len(data.item_ids), count, clients.seed))
    labels = np.arange(n_users, dtype=np.int64)
    if clients.by == "random":
        shuffled = np.argsort(mix_seed(clients.seed, hash_ids(data.user_ids)), kind="stable")
        labels[shuffled] = labels % count
    return clients_of(labels)


def clients_of(labels: NDArray[Any]) -> Ragged:
    """Make one client of all users with the same label, numbered by its smallest user."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    client = rank[inverse]
    return Ragged(offsets_of(np.bincount(client)), np.argsort(client, kind="stable"))


def taste_groups(train: Ragged, n_items: int, count: int, seed: int) -> IntArray:
    """Cluster users by what they train on: truncated SVD, then k-means.

    Rare items weigh more (log inverse frequency) and every user's row has length 1.

    Args:
        train: one row per user, its train items.
        n_items: size of the catalogue.
        count: number of groups, at most that of users; none stays empty.
        seed: of the first centres.

    Returns:
        int64 [n_users], the group of each user.

    Raises:
        MissingExtra: If scipy is not installed.
    """
    require("scipy", "for clients.by: taste")
    from scipy.cluster.vq import kmeans2, vq

    rng = np.random.Generator(np.random.Philox(seed))
    points = _embed(train, n_items, rng)
    centres = _first_centres(points, count, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of empty groups, which are filled below
        centres, _ = kmeans2(points, centres, iter=STEPS, minit="matrix")
    groups, distance = vq(points, centres)
    sizes = np.bincount(groups, minlength=count)
    for group in np.flatnonzero(sizes == 0):
        # An empty group gets the user that is farthest from the centre of a larger one.
        user = np.argmax(np.where(sizes[groups] > 1, distance, -1.0))
        sizes[groups[user]] -= 1
        groups[user], distance[user], sizes[group] = group, 0.0, 1
    return groups.astype(np.int64)


def _embed(train: Ragged, n_items: int, rng: np.random.Generator) -> FloatArray:
    """Return float64 [n_users, at most RANK]."""
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import svds

    owners, n_users = train.owners(), len(train)
    frequency = np.bincount(train.values, minlength=n_items)
    weights = np.log1p(n_users / np.maximum(frequency, 1))[train.values]
    norms = np.sqrt(np.bincount(owners, weights**2, minlength=n_users))
    weights /= np.maximum(norms, 1e-12)[owners]
    matrix = csr_array((weights, train.values, train.offsets), shape=(n_users, n_items))
    rank = min(RANK, n_users - 1, n_items - 1)
    if rank < 1:
        return np.asarray(matrix.todense(), np.float64)
    left, values, _ = svds(matrix, k=rank, v0=rng.standard_normal(min(n_users, n_items)))
    return np.asarray(left * values, np.float64)


def _first_centres(points: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """Return centres far from each other (k-means++, Arthur and Vassilvitskii 2007)."""
    centres = [points[int(rng.integers(len(points)))]]
    distance = ((points - centres[0]) ** 2).sum(axis=1)
    while len(centres) < count:
        ends = np.cumsum(distance)
        at = int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))
        centres.append(points[min(at, len(points) - 1)])
        distance = np.minimum(distance, ((points - centres[-1]) ** 2).sum(axis=1))
    return np.stack(centres)
