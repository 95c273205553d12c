"""Every client is as likely as any other."""

from typing import Any

import numpy as np

from fedrec.compute.context import RoundContext
from fedrec.seeds import Purpose, bits
from fedrec.types import IntArray, State
from strategies.selections.base import Selection, lowest


class Uniform(Selection):
    """Draws as many clients as are asked for, uniformly without replacement."""

    def choose(self, state: State, size: int, context: RoundContext) -> IntArray:
        """Return the clients of the round."""
        return cohort(context.seed, context.round, context.n_clients, size)


def cohort(seed: int, round: int, n_clients: int, size: int) -> IntArray:
    """Draw the clients of a round, uniformly without replacement; int64 [size], sorted."""
    return lowest(keys_of(seed, round, n_clients), size)


def order(seed: int, round: int, n_clients: int) -> IntArray:
    """Return all clients, int64 [n_clients], in the order in which `cohort` draws them."""
    return np.argsort(keys_of(seed, round, n_clients), kind="stable").astype(np.int64)


def keys_of(seed: int, round: int, n_clients: int) -> Any:
    """Return a random number of each client, uint64 [n_clients]."""
    everyone = np.arange(n_clients, dtype=np.int64)
    return bits(seed, Purpose.COHORT, round, everyone, np.zeros(1, np.int64))
