"""Federated Adam (Reddi et al., 2021)."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from fedrec.aggregation.reduce import Average, mean_update
from fedrec.plugins import Defaults
from fedrec.types import Aggregate, FloatArray, Params
from strategies.base import Averaging, State


class FedAdam(Averaging):
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

    def init(self, params: Params, n_clients: int) -> State:
        """Return moments of zero, float64: ``first/NAME`` and ``second/NAME``; and ``rounds``."""
        moments = {
            f"{moment}/{name}": np.zeros(value.shape)
            for moment in ("first", "second")
            for name, value in params.items()
        }
        return State(moments, {"rounds": 0})

    def apply(self, state: State, params: Params, aggregate: Aggregate) -> tuple[State, Params]:
        """Return the parameters after one Adam step along the aggregated change."""
        rounds = state.values["rounds"] + 1
        scale1 = 1 - self.beta1**rounds if self.bias_correction else 1.0
        scale2 = 1 - self.beta2**rounds if self.bias_correction else 1.0
        moments: dict[str, FloatArray] = {}
        after: dict[str, FloatArray] = {}
        for name, change in mean_update(params, aggregate, self.average).items():
            old1, old2 = state.arrays[f"first/{name}"], state.arrays[f"second/{name}"]
            first = self.beta1 * old1 + (1 - self.beta1) * change
            second = self.beta2 * old2 + (1 - self.beta2) * change * change
            step = self.server_lr * (first / scale1) / (np.sqrt(second / scale2) + self.tau)
            after[name] = (params[name] + step).astype(np.float32)
            moments |= {f"first/{name}": first, f"second/{name}": second}
        return State(moments, {"rounds": rounds}), after
