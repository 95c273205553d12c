"""Federated Adam (Reddi et al., 2021)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from fedrec.aggregation.reduce import Average, mean_update
from fedrec.plugins import Defaults
from fedrec.types import Aggregate, Params
from strategies.base import State, Strategy

__all__ = ["FedAdam"]


class FedAdam(Strategy):
    r"""Adam on the server, fed with the clients' aggregated change.

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) \Delta, \quad
              v \leftarrow \beta_2 v + (1 - \beta_2) \Delta^2, \quad
              x \leftarrow x + \eta \, m / (\sqrt{v} + \tau)

    The moments of all rows decay in every round, also of rows that nobody touched.

    Args:
        average: what :math:`\Delta` is divided by: ``per_row``, ``cohort`` or ``sum``.
        weighting: ``uniform``, or ``examples``: by number of train examples.
        server_lr: :math:`\eta`.
        beta1: :math:`\beta_1`.
        beta2: :math:`\beta_2`.
        tau: :math:`\tau`; larger is closer to plain averaging.
        bias_correction: divide the moments by :math:`1 - \beta^t`. The paper does not.

    Reference: reddi2021adaptive, Algorithm 2.
    """

    reference: ClassVar[str] = "reddi2021adaptive"
    defaults: ClassVar[Defaults] = {}  # Adam rescales what it is given

    average: Average = "sum"
    server_lr: float = Field(0.01, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    tau: float = Field(1e-3, gt=0)
    bias_correction: bool = False

    @property
    def sums_unweighted(self) -> bool:
        """Whether changes are added up unweighted."""
        return self.average == "sum"

    def init(self, params: Params, n_clients: int) -> State:
        """Return moments of zero, float64: ``first/NAME`` and ``second/NAME``; and ``rounds``."""
        moments = {
            f"{moment}/{name}": np.zeros(value.shape)
            for moment in ("first", "second")
            for name, value in params.items()
        }
        return State(moments, {"rounds": 0})

    def apply(self, state: State, params: Params, aggregate: Aggregate) -> tuple[State, Params]:
        """One Adam step along the aggregated change."""
        change = mean_update(params, aggregate, self.average)
        rounds = state.values["rounds"] + 1
        first, second = state.below("first/"), state.below("second/")
        first = {n: self.beta1 * first[n] + (1 - self.beta1) * d for n, d in change.items()}
        second = {n: self.beta2 * second[n] + (1 - self.beta2) * d * d for n, d in change.items()}
        scale1 = 1 - self.beta1**rounds if self.bias_correction else 1.0
        scale2 = 1 - self.beta2**rounds if self.bias_correction else 1.0
        after = {
            name: (
                value
                + self.server_lr
                * (first[name] / scale1)
                / (np.sqrt(second[name] / scale2) + self.tau)
            ).astype(np.float32)
            for name, value in params.items()
        }
        moments = {f"first/{name}": value for name, value in first.items()}
        moments |= {f"second/{name}": value for name, value in second.items()}
        return State(moments, {"rounds": rounds}), after
