"""The order in which users took their train items, for models that look at it."""

from __future__ import annotations

import numpy as np

from fedrec.errors import DataError
from fedrec.models.base import Model
from fedrec.seeds import Purpose, bits
from fedrec.types import FloatArray, IntArray, Ragged, Shard, offsets_of

__all__ = ["check_order", "latest"]


def check_order(model: Model, timestamps: FloatArray | None, name: str) -> None:
    """Check that data has the order that a model looks at.

    Args:
        model: The client model.
        timestamps: of the train items, or None.
        name: of the data set.

    Raises:
        DataError: If it has none.
    """
    if model.window is not None and timestamps is None:
        raise DataError(
            f"model: {type(model).__name__} looks at the order of a user's items, but {name} has "
            "no timestamps; name their column in data.columns.timestamp or take another model"
        )


def latest(shard: Shard, n: int) -> Ragged:
    """The latest train items of each user, oldest first.

    Items of equal time are ordered by a hash of (user, item) that no seed of a run changes, so
    neither by the file nor by the catalogue.

    Args:
        shard: The clients; with timestamps.
        n: items per user at most.

    Returns:
        One row per user row: where the items stand in ``shard.train.values``.

    Raises:
        DataError: If the shard has no timestamps.
    """
    if shard.timestamps is None:
        raise DataError("a model with a window needs timestamps, but the clients have none")
    owner = shard.train.owners()
    ties = bits(0, Purpose.HISTORY_ORDER, 0, shard.user_ids[owner], shard.train.values)
    order = np.lexsort((ties, shard.timestamps, owner))
    left = shard.train.offsets[1:][owner[order]] - np.arange(len(owner), dtype=np.int64)
    lengths: IntArray = np.minimum(shard.train.lengths, n)
    return Ragged(offsets_of(lengths), order[left <= n])
