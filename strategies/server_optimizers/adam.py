"""Adam on the server (Reddi et al., 2021)."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedrec.types import FloatArray
from strategies.server_optimizers.base import STEPS, ServerOptimizer


class Adam(ServerOptimizer):
    r"""A step whose size in each coordinate adapts to the changes so far.

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) \Delta, \quad
              v \leftarrow \beta_2 v + (1 - \beta_2) \Delta^2, \quad
              x \leftarrow x + \eta \frac{m}{\sqrt{v} + \tau}

    m and v begin at 0; in the paper v begins at :math:`\tau^2` or more.

    Args:
        lr: :math:`\eta`.
        beta1: :math:`\beta_1`.
        beta2: :math:`\beta_2`.
        tau: :math:`\tau`; larger is closer to plain averaging.
        bias_correction: Divide the moments by :math:`1 - \beta^t`. The paper does not.

    Reference: reddi2021adaptive, Algorithm 2.
    """

    reference: ClassVar[str] = "reddi2021adaptive"

    lr: float = Field(0.01, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    tau: float = Field(1e-3, gt=0)
    bias_correction: bool = False

    @property
    def memory(self) -> tuple[str, ...]:
        """Return both moments."""
        return ("first", "second")

    def direction(
        self, change: FloatArray, memory: Mapping[str, FloatArray]
    ) -> tuple[FloatArray, Mapping[str, FloatArray]]:
        """Return the adapted step."""
        first = self.beta1 * memory["first"] + (1 - self.beta1) * change
        second = self.second_moment(memory["second"], change * change)
        scale1 = 1 - self.beta1 ** memory[STEPS] if self.bias_correction else 1.0
        scale2 = 1 - self.beta2 ** memory[STEPS] if self.bias_correction else 1.0
        step = self.lr * (first / scale1) / (np.sqrt(second / scale2) + self.tau)
        return step, {"first": first, "second": second}

    def second_moment(self, second: FloatArray, square: FloatArray) -> FloatArray:
        """Return the next v from v and the squared change."""
        return self.beta2 * second + (1 - self.beta2) * square
