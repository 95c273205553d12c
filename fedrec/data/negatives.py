"""Sampled negatives: from given random bits to items that a user does not have.

One draw per negative: it is a rank among the allowed items, and the excluded ones are skipped, so
nothing is rejected and nothing drawn twice over. The bits come from `fedrec.seeds`.
"""

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import DataError
from fedrec.ragged import Ragged, offsets_of
from fedrec.types import IntArray, Shard, Split

Protocol: TypeAlias = Literal["clean", "legacy"]

_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


def pool_excluded(rows: Split | Shard, protocol: Protocol) -> Ragged:
    """Return the items that are never drawn as a negative of each user.

    Args:
        rows: A split or a shard.
        protocol: ``clean``: the train items, so a held-out item can be drawn. ``legacy``: the
            held-out items too, which tells the model where they are; for published rows only.

    Returns:
        One row per user (row), sorted.
    """
    if protocol == "clean":
        return rows.train
    subsets = (rows.train, rows.valid, rows.test)
    keys = np.sort(np.concatenate([each.owners() * rows.n_items + each.values for each in subsets]))
    lengths = rows.train.lengths + rows.valid.lengths + rows.test.lengths
    return Ragged(offsets_of(lengths), keys % rows.n_items)


def check_pool(split: Split, protocol: Protocol) -> None:
    """See that every user has an item left that can be its negative.

    Raises:
        DataError: Naming the user and the ways out.
    """
    full = np.flatnonzero(pool_excluded(split, protocol).lengths >= split.n_drawn)
    if len(full):
        raise DataError(
            f"{split.name}: user '{split.user_ids[int(full[0])]}' has all {split.n_drawn} items"
            f"{' that are not cold' if split.n_cold else ''}, so no negative can be drawn for it; "
            "remove the user, or keep more items with data.threshold or data.k_core"
        )


def uniform_negatives(
    bits: NDArray[np.uint32], users: IntArray, excluded: Ragged, n_items: int
) -> IntArray:
    """Return items drawn uniformly from those that are not excluded.

    Args:
        bits: uint32 [n], random.
        users: int64 [n], the row of ``excluded`` that each draw is for.
        excluded: one row per user, sorted and unique.
        n_items: size of the catalogue.

    Returns:
        int64 [n]. With ``r = bits * pool >> 32``, the r-th (from 0) item that is not excluded.

    Raises:
        DataError: If all items of a user are excluded.
    """
    pool = n_items - excluded.lengths
    check_rows_with_pool(pool, users)
    ranks = ((bits.astype(np.uint64) * pool[users].astype(np.uint64)) >> _32).astype(np.int64)
    # The k-th excluded item of a row has excluded[k] - k allowed items before it, which never falls
    # within a row; shifted by the row, all rows together are one sorted array.
    owners, starts = excluded.owners(), excluded.offsets[:-1]
    within = np.arange(len(owners)) - starts[owners]
    keys = owners * (n_items + 1) + excluded.values - within
    at = np.searchsorted(keys, users * (n_items + 1) + ranks, side="right")
    return ranks + at - starts[users]


def popularity_weights(split: Split) -> IntArray:
    """Return the weight of each item in `popularity_negatives`: train count + 1; 0 for cold ones.

    Returns:
        int64 [n_items].
    """
    return np.where(np.arange(split.n_items) < split.n_drawn, split.train_counts() + 1, 0)


def popularity_negatives(
    bits: NDArray[np.uint64], users: IntArray, excluded: Ragged, weights: IntArray
) -> IntArray:
    """Return items drawn in proportion to whole-number weights from those that are not excluded.

    Args:
        bits: uint64 [n], random.
        users: int64 [n], the row of ``excluded`` that each draw is for.
        excluded: one row per user, sorted and unique.
        weights: int64 [n_items], from 0, with a sum below 2**32.

    Returns:
        int64 [n]. With ``r = bits * mass >> 64``, where mass is the weight that is not excluded,
        the item in which the r-th unit of that mass lies.

    Raises:
        DataError: If all items that have a weight are excluded for a user.
    """
    ends = np.cumsum(weights, dtype=np.int64)
    total = int(ends[-1])
    skipped = np.concatenate([[0], np.cumsum(weights[excluded.values], dtype=np.int64)])
    before = skipped[excluded.offsets]
    mass = total - np.diff(before)
    check_rows_with_pool(mass, users)
    # The upper half of a product of 128 bits.
    factor = mass[users].astype(np.uint64)
    low = ((bits & _LOW) * factor) >> _32
    unit = (((bits >> _32) * factor + low) >> _32).astype(np.int64)
    # The mass of the pool that lies before each excluded item, which never falls within a row.
    owners = excluded.owners()
    ahead = (ends - weights)[excluded.values] - (skipped[:-1] - before[owners])
    keys = owners * (total + 1) + ahead
    at = np.searchsorted(keys, users * (total + 1) + unit, side="right")
    unit += skipped[at] - before[users]
    return np.searchsorted(ends, unit, side="right")


def check_rows_with_pool(pool: IntArray, users: IntArray) -> None:
    """See that each of some users has an item left.

    Args:
        pool: int64 [u], how many items each user row has left.
        users: int64 [n], user rows.

    Raises:
        DataError: Naming the first that has none.
    """
    empty = users[pool[users] <= 0]
    if len(empty):
        raise DataError(
            f"user row {int(empty[0])}: all items are excluded, so no negative can be drawn"
        )
