"""Groups of users with similar train items."""

from __future__ import annotations

import importlib.util

import numpy as np

from fedrec.errors import MissingExtra
from fedrec.types import FloatArray, IntArray, Ragged

__all__ = ["taste_groups"]

RANK, STEPS = 16, 50


def taste_groups(train: Ragged, n_items: int, count: int, seed: int) -> IntArray:
    """Cluster users by what they train on: truncated SVD, then k-means.

    Rare items weigh more (log inverse frequency) and every user's row has length 1.

    Args:
        train: one row per user, its train items.
        n_items: size of the catalogue.
        count: number of groups, at most the number of users.
        seed: of the first centres.

    Returns:
        int64 [n_users], the group of each user; no group is empty.

    Raises:
        MissingExtra: If scipy is not installed.
    """
    if importlib.util.find_spec("scipy") is None:
        raise MissingExtra("scipy, for clients.by: taste,", "sim")
    rng = np.random.Generator(np.random.Philox(seed))
    points = _embed(train, n_items, rng)
    groups, distance = _k_means(points, _first_centres(points, count, rng))
    return _fill_empty(groups, distance, count)


def _embed(train: Ragged, n_items: int, rng: np.random.Generator) -> FloatArray:
    """float64 [n_users, at most RANK]."""
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import svds

    owners = train.owners()
    frequency = np.bincount(train.values, minlength=n_items)
    weights = np.log1p(len(train) / np.maximum(frequency, 1))[train.values]
    norms = np.sqrt(np.bincount(owners, weights**2, minlength=len(train)))
    weights /= np.maximum(norms, 1e-12)[owners]
    matrix = csr_array((weights, train.values, train.offsets), shape=(len(train), n_items))
    rank = min(RANK, *(size - 1 for size in matrix.shape))
    if rank < 1:
        return np.asarray(matrix.todense(), np.float64)
    left, values, _ = svds(matrix, k=rank, v0=rng.standard_normal(min(matrix.shape)))
    return np.asarray(left * values, np.float64)


def _first_centres(points: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """k-means++ (Arthur and Vassilvitskii 2007): far from the centres chosen before."""
    chosen = [int(rng.integers(len(points)))]
    distance = ((points - points[chosen[0]]) ** 2).sum(axis=1)
    for _ in range(count - 1):
        ends = np.cumsum(distance)
        at = int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))
        chosen.append(min(at, len(points) - 1))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
    return points[chosen]


def _k_means(points: FloatArray, centres: FloatArray) -> tuple[IntArray, FloatArray]:
    """The nearest centre of each point after Lloyd's iterations, and how far it is."""
    from scipy.cluster.vq import vq

    groups, distance = vq(points, centres)
    for _ in range(STEPS):
        counts = np.bincount(groups, minlength=len(centres))
        sums = np.stack([np.bincount(groups, axis, len(centres)) for axis in points.T], axis=1)
        moved = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
        before, (groups, distance) = groups, vq(points, moved)
        centres = moved
        if np.array_equal(before, groups):
            break
    return groups.astype(np.int64), distance


def _fill_empty(groups: IntArray, distance: FloatArray, count: int) -> IntArray:
    """Give each empty group the user that is farthest from the centre of a larger one."""
    groups, distance = groups.copy(), distance.copy()
    counts = np.bincount(groups, minlength=count)
    for group in np.flatnonzero(counts == 0).tolist():
        user = int(np.argmax(np.where(counts[groups] > 1, distance, -1.0)))
        counts[groups[user]] -= 1
        counts[group] = 1
        groups[user], distance[user] = group, 0.0
    return groups
