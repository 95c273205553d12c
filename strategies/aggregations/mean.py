"""The mean of the clients' changes (McMahan et al., 2017), over the rows of item tables."""

from typing import Any, ClassVar

from pydantic import Field

from fedrec.aggregation.reduce import Average, Summing, Weighting, mean_update
from fedrec.aggregation.update import Aggregate
from fedrec.compute.context import RoundContext
from fedrec.types import Params, State
from strategies.aggregations.base import Aggregation


class Mean(Aggregation):
    r"""The weighted mean of the clients' changes, or their sum.

    .. math:: \Delta = \frac{\sum_u w_u \Delta_u}{\text{divisor}}

    Args:
        average: What is divided by: ``per_row`` (the weight of the clients that touched the row, so
            that an item that few clients know still moves), ``cohort`` (the weight of all clients
            of the round, as published) or ``sum`` (nothing).
        weighting: ``uniform``, or ``examples``: by number of train examples.
        floor: With ``per_row``, a row is divided by the weight of at least so many clients (of the
            cohort's mean weight), so that a single client does not move an item at will.

    Reference: mcmahan2017communication, Algorithm 1.
    """

    reference: ClassVar[str] = "mcmahan2017communication"

    average: Average = "per_row"
    weighting: Weighting = "uniform"
    floor: int = Field(0, ge=0)

    def without_effect(self, run: Any) -> list[str]:
        """Say that weights are not used where updates are only added up."""
        lines = []
        if self.average == "sum":
            lines += self.unused("updates are added up unweighted", "weighting")
        if self.average != "per_row":
            lines += self.unused("it belongs to average: per_row", "floor")
        elif self.floor == 1:
            lines.append("floor: 1 has no effect: who touches a row counts as one client")
        elif self.floor > (cohort := run.experiment.rounds.clients_of(run.split.n_clients)):
            lines.append(
                f"floor: {self.floor} clients are more than the {cohort} of a round, so every item "
                "moves by a part of its mean change; lower it"
            )
        return lines

    @property
    def sums(self) -> Summing:
        """How changes are summed."""
        return Summing(self.weighting, weighted=self.average != "sum")

    def change(
        self, state: State, params: Params, aggregate: Aggregate, context: RoundContext
    ) -> tuple[State, Params]:
        """Return the mean change."""
        return state, mean_update(params, aggregate, self.average, self.floor)
