"""Clients whose training loss is high come first (power of choice)."""

from typing import Any, ClassVar

import numpy as np

from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError
from fedrec.plugins import Count
from fedrec.types import FloatArray, IntArray, State
from strategies.selections.base import Selection, lowest
from strategies.selections.uniform import keys_of


class Loss(Selection):
    """Draws candidates, and takes those of them whose last training loss was highest.

    This is the paper's rpow-d: the loss is that of the last round in which a client took part, and
    clients that never did come before all others. Candidates are drawn uniformly, not by the share
    of the data that they hold, which the server does not know.

    Args:
        candidates: d, from the size of the cohort; none: twice that, or all clients.

    Reference: cho2020client, section 4.
    """

    reference: ClassVar[str] = "cho2020client"
    needs: ClassVar[tuple[str, ...]] = ("loss",)

    candidates: Count | None = None

    def without_effect(self, run: Any) -> list[str]:
        """Say that all candidates take part.

        Raises:
            ConfigError: If there are fewer candidates than clients in a round, or more than there
                are clients.
        """
        n = run.split.n_clients
        size = run.experiment.rounds.clients_of(n)
        d = self._count(size, n)
        if not size <= d <= n:
            raise ConfigError(
                f"rounds.selection.candidates: {d}, expected from {size}, the clients of a round, "
                f"to {n}, all clients"
            )
        if size == n:
            return ["name: loss has no effect: all clients take part; lower rounds.cohort_size"]
        return [f"candidates: {d} has no effect: all take part; raise it"] if d == size else []

    def init(self, examples: IntArray, context: RoundContext) -> State:
        """Return the last loss of each client, ``loss``, float64 [n_clients]: infinite."""
        return State({"loss": np.full(context.n_clients, np.inf)})

    def choose(self, state: State, size: int, context: RoundContext) -> IntArray:
        """Return the clients of the round; of equal losses the lowest random numbers."""
        keys = keys_of(context.seed, context.round, context.n_clients)
        drawn = lowest(keys, self._count(size, context.n_clients))
        best_first = np.lexsort((keys[drawn], -state.arrays["loss"][drawn]))
        return np.sort(drawn[best_first[:size]])

    def learned(
        self, state: State, clients: IntArray, losses: FloatArray, context: RoundContext
    ) -> State:
        """Return the state with the losses of the round."""
        loss = state.arrays["loss"].copy()
        loss[clients] = losses
        return State({"loss": loss})

    def _count(self, size: int, n_clients: int) -> int:
        return min(2 * size, n_clients) if self.candidates is None else self.candidates
