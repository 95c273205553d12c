"""Each client decides by itself."""

from typing import Any, ClassVar

import numpy as np

from fedrec.compute.context import RoundContext
from fedrec.types import IntArray, State
from strategies.selections.base import Selection


class Poisson(Selection):
    r"""Each client takes part with probability q, whatever the others do.

    q is the share of clients that the experiment asks for, so that they are as many on average.
    The accounting of differentially private training assumes such draws. A round in which nobody
    takes part changes nothing.

    Reference: abadi2016deep, section 3.2.
    """

    reference: ClassVar[str] = "abadi2016deep"

    def without_effect(self, run: Any) -> list[str]:
        """Say that all clients take part."""
        n = run.split.n_clients
        if run.experiment.rounds.clients_of(n) < n:
            return []
        return ["name: poisson has no effect: all clients take part; lower rounds.cohort_size"]

    def choose(self, state: State, size: int, context: RoundContext) -> IntArray:
        """Return the clients of the round."""
        everyone = np.arange(context.n_clients, dtype=np.int64)
        drawn = context.uniform("selection", everyone, np.zeros(1, np.int64))
        return everyone[drawn < size / context.n_clients]
