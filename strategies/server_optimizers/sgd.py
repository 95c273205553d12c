"""Gradient descent with momentum on the server (FedAvgM, Hsu et al., 2019)."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from fedrec.types import FloatArray
from strategies.server_optimizers.base import ServerOptimizer


class SGD(ServerOptimizer):
    r"""The joint change is taken as a step, perhaps with momentum.

    .. math:: m \leftarrow \beta m + \Delta, \quad x \leftarrow x + \eta m

    Args:
        lr: :math:`\eta`.
        momentum: :math:`\beta`.

    Reference: hsu2019measuring, section 4.
    """

    reference: ClassVar[str] = "hsu2019measuring"

    momentum: float = Field(0.0, ge=0, lt=1)

    @property
    def memory(self) -> tuple[str, ...]:
        """Return m, where there is momentum."""
        return ("velocity",) if self.momentum > 0 else ()

    def direction(
        self, change: FloatArray, memory: Mapping[str, FloatArray]
    ) -> tuple[FloatArray, Mapping[str, FloatArray]]:
        """Return the step along m."""
        velocity = self.momentum * memory["velocity"] + change if memory else change
        return self.lr * velocity, {"velocity": velocity} if memory else {}
