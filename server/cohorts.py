"""Who takes part in a round: a pure function of seed and round, in client ids."""

from __future__ import annotations

import numpy as np

from fedrec.seeds import Purpose, bits
from fedrec.types import IntArray

__all__ = ["cohort"]


def cohort(seed: int, round: int, n_clients: int, size: int) -> IntArray:
    """Draw the clients of a round, uniformly without replacement.

    Args:
        seed: Of the run.
        round: The round.
        n_clients: All clients of the run.
        size: Clients in the round.

    Returns:
        int64 [size], sorted.
    """
    everyone = np.arange(n_clients, dtype=np.int64)
    if size >= n_clients:
        return everyone
    keys = bits(seed, Purpose.COHORT, round, everyone, np.zeros(1, np.int64))
    return np.sort(np.argpartition(keys, size - 1)[:size]).astype(np.int64)
