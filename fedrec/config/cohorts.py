"""Who takes part in a round: a pure function of seed and round, in client ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedrec.errors import ConfigError
from fedrec.seeds import Purpose, bits
from fedrec.types import IntArray

if TYPE_CHECKING:
    from fedrec.config.rounds import Rounds

__all__ = ["cohort", "cohort_size"]


def cohort_size(rounds: Rounds, n_clients: int) -> int:
    """Clients in a round.

    Raises:
        ConfigError: If more are asked for than there are.
    """
    if rounds.cohort_fraction is not None:
        return max(1, round(rounds.cohort_fraction * n_clients))
    if rounds.cohort_size == "all":
        return n_clients
    if rounds.cohort_size > n_clients:
        raise ConfigError(
            f"rounds.cohort_size: {rounds.cohort_size} is more than the {n_clients} clients; "
            "lower it or write 'all'"
        )
    return rounds.cohort_size


def cohort(seed: int, round: int, n_clients: int, size: int) -> IntArray:
    """The clients of a round, drawn uniformly without replacement.

    Args:
        seed: of the run.
        round: the round.
        n_clients: all clients.
        size: of the cohort.

    Returns:
        int64 [size], sorted.
    """
    everyone = np.arange(n_clients, dtype=np.int64)
    if size >= n_clients:
        return everyone
    keys = bits(seed, Purpose.COHORT, round, everyone, np.zeros(1, np.int64))
    return np.sort(np.argpartition(keys, size - 1)[:size]).astype(np.int64)
