"""Adagrad on the server (Reddi et al., 2021)."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedrec.types import FloatArray
from strategies.server_optimizers.base import ServerOptimizer


class Adagrad(ServerOptimizer):
    r"""A step that shrinks in each coordinate with all changes so far.

    .. math:: v \leftarrow v + \Delta^2, \quad x \leftarrow x + \eta \frac{\Delta}{\sqrt{v} + \tau}

    v begins at 0; in the paper it begins at :math:`\tau^2` or more.

    Args:
        lr: :math:`\eta`.
        tau: :math:`\tau`; larger is closer to plain averaging.

    Reference: reddi2021adaptive, Algorithm 2, with :math:`\beta_1 = 0`.
    """

    reference: ClassVar[str] = "reddi2021adaptive"

    lr: float = Field(0.01, gt=0)
    tau: float = Field(1e-3, gt=0)

    @property
    def memory(self) -> tuple[str, ...]:
        """Return the sum of squares."""
        return ("squares",)

    def direction(
        self, change: FloatArray, memory: Mapping[str, FloatArray]
    ) -> tuple[FloatArray, Mapping[str, FloatArray]]:
        """Return the shrunk step."""
        squares = memory["squares"] + change * change
        return self.lr * change / (np.sqrt(squares) + self.tau), {"squares": squares}
