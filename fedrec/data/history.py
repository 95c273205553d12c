"""What a user took last."""

import numpy as np

from fedrec.ragged import Ragged, offsets_of
from fedrec.seeds import Purpose, bits
from fedrec.types import IntArray, Shard


def latest(shard: Shard, n: int) -> Ragged:
    """Return the latest train items of each user, oldest first.

    Items of equal time, or all where the shard has no times, are ordered by a hash of (user, item)
    that no seed of a run changes, so neither by the file nor by the catalogue.

    Args:
        shard: The clients.
        n: items per user at most.

    Returns:
        One row per user row: where the items stand in ``shard.train.values``.
    """
    owner = shard.train.owners()
    ties = bits(0, Purpose.HISTORY_ORDER, 0, shard.user_ids[owner], shard.train.values)
    times = () if shard.timestamps is None else (shard.timestamps,)
    by_time = np.lexsort((ties, *times, owner))
    left = shard.train.offsets[1:][owner[by_time]] - np.arange(len(owner), dtype=np.int64)
    lengths: IntArray = np.minimum(shard.train.lengths, n)
    return Ragged(offsets_of(lengths), by_time[left <= n])
