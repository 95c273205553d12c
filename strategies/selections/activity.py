"""Clients with more train items are likelier."""

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedrec.compute.context import RoundContext
from fedrec.types import IntArray, State
from strategies.selections.base import Selection


class Activity(Selection):
    r"""Draws clients one after the other, each with a probability by its number of train items.

    Of the clients that are left, client u is drawn with probability
    :math:`n_u^\alpha / \sum_v n_v^\alpha`: the order of :math:`\log(r_u) / n_u^\alpha`, highest
    first, with a uniform random number :math:`r_u` of each. Clients without train items come last.

    Args:
        alpha: How much activity counts: 0 is uniform, 1 proportional.

    Reference: efraimidis2006weighted.
    """

    reference: ClassVar[str] = "efraimidis2006weighted"
    needs: ClassVar[tuple[str, ...]] = ("examples",)

    alpha: float = Field(1.0, ge=0)

    def without_effect(self, run: Any) -> list[str]:
        """Say that all clients take part, or are as likely."""
        n = run.split.n_clients
        if run.experiment.rounds.clients_of(n) == n:
            return ["name: activity has no effect: all clients take part; lower rounds.cohort_size"]
        return ["alpha: 0 has no effect: it is selection uniform"] if self.alpha == 0 else []

    def init(self, examples: IntArray, context: RoundContext) -> State:
        """Return the logarithm of each client's weight, ``log_weight``, float64 [n_clients]."""
        log_weight = np.full(len(examples), -np.inf if self.alpha > 0 else 0.0)
        np.log(examples, out=log_weight, where=examples > 0)
        log_weight[examples > 0] *= self.alpha
        return State({"log_weight": log_weight})

    def choose(self, state: State, size: int, context: RoundContext) -> IntArray:
        """Return the clients of the round."""
        log_weight = state.arrays["log_weight"]
        everyone = np.arange(len(log_weight), dtype=np.int64)
        drawn = context.uniform("selection", everyone, np.zeros(1, np.int64))
        # The logarithm of what the clients are ordered by, which large powers would overflow.
        keys = np.log(-np.log(drawn)) - log_weight
        return np.sort(np.lexsort((-drawn, keys))[:size]).astype(np.int64)
