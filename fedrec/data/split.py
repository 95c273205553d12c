"""Hold interactions out for validation and test.

Ties in time, and the order of data without timestamps, are decided by a hash of the split's seed
and the raw ids of user and item: not by the order of the file, nor by the seed of a run. Data
without timestamps has no latest item; leave-one-out then holds out random ones by the same hash.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedrec.data.base import SplitBy
from fedrec.data.ids import HashArray, hash_ids, mix_seed
from fedrec.data.problems import UnsuitableData
from fedrec.errors import DataError
from fedrec.types import IntArray, Interactions, offsets_of

__all__ = ["DROPPED", "TEST", "TRAIN", "VALID", "Parts", "ShortUsers", "hold_out", "tie_hash"]

Parts: TypeAlias = NDArray[np.int8]
ShortUsers: TypeAlias = Literal["error", "train_only", "drop"]
TRAIN, VALID, TEST, DROPPED = 0, 1, 2, -1


def hold_out(data: Interactions, by: SplitBy, short_users: ShortUsers) -> Parts:
    """Assign each interaction to training, validation or test.

    ``leave_one_out``: a user's latest interaction is for the test, the second latest for
    validation; it needs 3. ``ratio``: random shares of each user's interactions, at least one
    for the test, one for validation (unless its share is 0) and one for training.
    ``temporal``: the globally latest interactions are for the test, those before for validation.
    Here a user is too short if it has nothing in the training period; there is then nothing that
    ``train_only`` could keep, and it drops the user too.

    Args:
        data: Filtered interactions.
        by: How, with the seed.
        short_users: What happens to users that are too short.

    Returns:
        int8 [n]: ``TRAIN``, ``VALID``, ``TEST`` or ``DROPPED``.

    Raises:
        DataError: If a user is too short and may not be, the data has no time to split by, or
            nothing is left for training or for the test.
    """
    ties = tie_hash(data, by.seed)
    if by.name == "leave_one_out":
        parts, short = _leave_one_out(data, ties)
        needed = "leave_one_out needs 3"
    elif by.name == "ratio":
        parts, short = _ratio(data, by, ties)
        needed = f"this ratio needs {3 if by.valid > 0 else 2}"
    else:
        parts, short = _temporal(data, by, ties)
        needed = "temporal needs 1 in the training period"
    parts = _settle(data, parts, short, short_users, needed)
    for part, label in ((TRAIN, "train on"), (TEST, "test on")):
        if not (parts == part).any():
            raise DataError(
                f"{data.name}: the split leaves nothing to {label}; change data.split, or filter "
                "less with data.threshold, data.k_core or data.short_users"
            )
    return parts


def tie_hash(data: Interactions, seed: int) -> HashArray:
    """Hash (seed, raw user id, raw item id) of each interaction: uint64 [n]."""
    users, items = hash_ids(data.user_ids), hash_ids(data.item_ids)
    return mix_seed(seed, users[data.users], items[data.items])


def _leave_one_out(data: Interactions, ties: HashArray) -> tuple[Parts, NDArray[np.bool_]]:
    times = () if data.timestamps is None else (data.timestamps,)
    order, place, counts = _in_user_order(data, (data.items, ties, *times))
    parts = np.empty(len(data), np.int8)
    left = counts[data.users[order]] - place
    parts[order] = np.select([left == 1, left == 2], [TEST, VALID], TRAIN)
    return parts, counts < 3


def _ratio(data: Interactions, by: SplitBy, ties: HashArray) -> tuple[Parts, NDArray[np.bool_]]:
    order, place, counts = _in_user_order(data, (data.items, ties))
    least = 1 if by.valid > 0 else 0
    test = np.maximum(_share(by.test, counts), 1)
    valid = np.minimum(np.maximum(_share(by.valid, counts), least), counts - test - 1)
    owner = data.users[order]
    parts = np.empty(len(data), np.int8)
    parts[order] = np.select(
        [place < test[owner], place < (test + valid)[owner]], [TEST, VALID], TRAIN
    )
    return parts, counts < 2 + least


def _temporal(data: Interactions, by: SplitBy, ties: HashArray) -> tuple[Parts, NDArray[np.bool_]]:
    if data.timestamps is None:
        raise UnsuitableData(
            f"data.split: temporal needs timestamps, but {data.name} has none; name their column "
            "in data.columns.timestamp, or use leave_one_out or ratio",
            split=SplitBy(),
        )
    order = np.lexsort((data.items, data.users, ties, data.timestamps))
    test = max(1, int(_share(by.test, np.array(len(data)))))
    valid = int(_share(by.valid, np.array(len(data))))
    parts = np.full(len(data), TRAIN, np.int8)
    parts[order[len(data) - test - valid :]] = VALID
    parts[order[len(data) - test :]] = TEST
    trained = np.bincount(data.users[parts == TRAIN], minlength=len(data.user_ids))
    return parts, trained == 0


def _in_user_order(
    data: Interactions, keys: tuple[NDArray[np.generic], ...]
) -> tuple[IntArray, IntArray, IntArray]:
    """Return rows sorted by user and keys (the last counts most), their places, rows per user."""
    order = np.lexsort((*keys, data.users))
    counts = np.bincount(data.users, minlength=len(data.user_ids))
    place = np.arange(len(data), dtype=np.int64) - offsets_of(counts)[:-1][data.users[order]]
    return order, place, counts


def _share(share: float, counts: IntArray) -> IntArray:
    """Return floor(share * count), with 0.3 * 10 = 3."""
    return np.asarray(np.floor(share * counts + 1e-9), np.int64)


def _settle(
    data: Interactions,
    parts: Parts,
    short: NDArray[np.bool_],
    policy: ShortUsers,
    needed: str,
) -> Parts:
    if not short.any():
        return parts
    if policy == "error":
        user = int(np.flatnonzero(short)[0])
        count = int((data.users == user).sum())
        others = int(short.sum()) - 1
        more = f" (and {others} more users)" if others else ""
        raise UnsuitableData(
            f"{data.name}: user '{data.user_ids[user]}' has {count} "
            f"interaction{'s' if count != 1 else ''}, {needed}{more}; set data.short_users to "
            "train_only or drop",
            short_users="train_only",
        )
    rows = short[data.users]
    keeps = policy == "train_only" and not needed.startswith("temporal")
    return np.where(rows, np.int8(TRAIN if keeps else DROPPED), parts)
