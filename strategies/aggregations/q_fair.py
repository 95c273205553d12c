"""q-fair averaging (Li et al., 2020): clients with larger losses weigh more."""

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedrec.aggregation.lengths import squared_lengths
from fedrec.aggregation.reduce import mean_update, weighted_sums
from fedrec.aggregation.update import Aggregate, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.types import Params, State
from strategies.aggregations.base import Aggregation

_LEAST_LOSS = 1e-3


class QFair(Aggregation):
    r"""Changes are weighted by a power of the clients' losses, and steps are as long as is safe.

    .. math:: \Delta_i = \frac{\sum_u F_u^q \Delta_{ui}}{\sum_u h_u}, \quad
              h_u = F_u^q + q F_u^{q-1} L \lVert \Delta_u \rVert^2

    :math:`F_u` is the client's mean loss per example at the parameters that it received, at least
    0.001: one client without any loss would make the sum of :math:`h_u` infinite for q below 1, and
    0 for an item that it touched alone for q above 1. Both sums are over the clients that touched
    the item (all clients, for dense parameters); with q = 0 it is the mean.

    Args:
        q: How much more large losses count. Above 2, sums in fixed point would round the weights
            of small losses to 0.
        lipschitz: L, the inverse of the clients' step size in the paper.

    Reference: li2020fair, Algorithm 2.
    """

    reference: ClassVar[str] = "li2020fair"
    measures: ClassVar[tuple[str, ...]] = ("loss_before",)

    q: float = Field(1.0, ge=0, le=2)
    lipschitz: float = Field(1.0, gt=0)

    def without_effect(self, run: Any) -> list[str]:
        """Say that losses do not count."""
        if self.q > 0:
            return []
        lines = ["q: 0 has no effect: it is the aggregation mean; raise it, or take that"]
        return lines + self.unused("q is 0", "lipschitz")

    def reduce(self, batch: UpdateBatch) -> Aggregate:
        """Sum the weighted changes, and the weights h."""
        batch, loss = batch.decoded(), np.maximum(batch.metrics["loss_before"], _LEAST_LOSS)
        step = self.q * loss ** (self.q - 1) * self.lipschitz * squared_lengths(batch)
        return weighted_sums(batch, loss**self.q + step, loss**self.q)

    def change(
        self, state: State, params: Params, aggregate: Aggregate, context: RoundContext
    ) -> tuple[State, Params]:
        """Return the weighted change."""
        return state, mean_update(params, aggregate, "per_row")
