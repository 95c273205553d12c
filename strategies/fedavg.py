"""Federated averaging (McMahan et al., 2017), over the rows of item tables."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fedrec.aggregation.reduce import Denominator, mean_update, stepped
from fedrec.types import Aggregate, Params
from strategies.base import State, Strategy

__all__ = ["FedAvg"]


class FedAvg(Strategy):
    r"""The mean of the clients' changes, taken as a step.

    .. math:: x \leftarrow x + \eta \, \frac{\sum_u w_u \Delta_u}{\text{denominator}}

    Args:
        denominator: ``rows`` (weight of the clients that touched the row: an item that few clients
            know still moves), ``cohort`` (weight of all clients of the round, as published) or
            ``sum``.
        weighting: ``uniform``, or ``examples``: by number of train examples.
        server_lr: :math:`\eta`.

    Reference: mcmahan2017communication, Algorithm 1.
    """

    reference: ClassVar[str] = "mcmahan2017communication"

    denominator: Denominator = "rows"
    server_lr: float = Field(1.0, gt=0)

    @property
    def plain_sum(self) -> bool:
        """Whether changes are added up unweighted."""
        return self.denominator == "sum"

    def init(self, params: Params, n_clients: int) -> State:
        """No state."""
        return None

    def apply(self, state: State, params: Params, aggregate: Aggregate) -> tuple[State, Params]:
        """One step along the mean change."""
        change = mean_update(params, aggregate, self.denominator)
        return None, stepped(params, change, self.server_lr)
