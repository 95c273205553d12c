"""Fine-tuning: after the last round each client trains the shared model a little for itself."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from fedrec.personalization.base import Personalization, Phase
from fedrec.types import ParamSpec


class FineTune(Personalization):
    r"""Rounds are those without it; at the end clients train a copy of what validation chose.

    Each client starts from the shared and its private parameters of the chosen round, makes some
    epochs of :math:`v \gets v - \eta\,(\nabla F(v) + \lambda (v - w))`, and ranks with the result.
    Nothing is uploaded. Of item tables only the client's positives change.

    Args:
        epochs: Local epochs of the end; choose them on validation, 0 among them: that is the
            shared model.
        pull: :math:`\lambda`, which counts against the loss as ``train.reduction`` has it.

    Reference: li2021ditto, whose code has it as a baseline.
    """

    reference: ClassVar[str] = "li2021ditto"

    epochs: int = Field(1, ge=0)
    pull: float = Field(0.0, ge=0)

    def without_effect(self, run: Any) -> list[str]:
        """Say that nothing is trained, so nothing is pulled."""
        return self.unused("epochs is 0", "pull") if self.epochs == 0 else []

    def copies(self, specs: Mapping[str, ParamSpec]) -> Collection[str]:
        """Return what is shared; private parameters are trained themselves."""
        return [name for name, spec in specs.items() if spec.scope == "shared"]

    def phases(self, specs: Mapping[str, ParamSpec], copies: Collection[str]) -> tuple[Phase, ...]:
        """Return the phase of rounds and that of the end."""
        private = [name for name, spec in specs.items() if spec.scope == "private"]
        return Phase(tuple(specs)), Phase((*copies, *private), epochs=self.epochs, when="end")

    def penalty(self, name: str, copy: Tensor, received: Tensor) -> Tensor | None:
        """Return half the squared distance to the shared values, times ``pull``."""
        return self.pull / 2 * (copy - received).square().sum() if self.pull > 0 else None
