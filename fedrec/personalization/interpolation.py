"""APFL, adaptive personalized federated learning: a mix of a shared and a private model."""

from collections.abc import Collection, Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from fedrec.compute.batch import Tensors
from fedrec.personalization.base import Personalization, Phase, View
from fedrec.types import ParamSpec


class Interpolation(Personalization):
    r"""APFL: each client ranks with :math:`\bar v = \alpha v + (1 - \alpha) w`.

    In the same steps :math:`w` is trained on its own loss, as without it, and the private
    :math:`v` on that of the mix; :math:`\alpha` once in a round, at its first step. Of item tables
    the client's positives are copied: others have :math:`v = w`.

    .. math:: v \gets v - \eta\, \alpha \nabla F(\bar v), \quad
              \alpha \gets [\alpha - \eta_\alpha \langle v - w, \nabla F(\bar v) \rangle]_0^1

    Args:
        alpha: The first weight: 0 is the shared model, 1 a private one that learns from nobody.
        alpha_lr: :math:`\eta_\alpha`; 0 keeps the weight.

    Reference: deng2020adaptive, Algorithm 1.
    """

    reference: ClassVar[str] = "deng2020adaptive"
    views: ClassVar[tuple[View, ...]] = ("mixed", "global", "local")
    moves: ClassVar[tuple[str, ...]] = ("alpha",)

    alpha: float = Field(0.5, ge=0, le=1)
    alpha_lr: float = Field(0.01, ge=0)

    def state(self, dim: int) -> Mapping[str, ParamSpec]:
        """Return ``alpha`` per client."""
        start, moves = self.alpha, self.alpha_lr > 0
        return {"alpha": ParamSpec("private", "client", (), init_value=start, trainable=moves)}

    def copies(self, specs: Mapping[str, ParamSpec]) -> Collection[str]:
        """Return all of them."""
        return specs

    def phases(self, specs: Mapping[str, ParamSpec], copies: Collection[str]) -> tuple[Phase, ...]:
        """Return one phase, of both losses."""
        return (Phase(views=("global", "mixed")),)

    def parameter(
        self, view: View, name: str, shared: Tensor, copy: Tensor, own: Tensors
    ) -> Tensor:
        """Return the mix; the private value for the view ``local``."""
        mix = own["alpha"] * copy + (1 - own["alpha"]) * shared.detach()
        return copy if view == "local" else mix

    def move(self, name: str, value: Tensor, gradient: Tensor, number: int) -> Tensor:
        """Return the new weight after the first step of a round."""
        return value if number > 0 else (value - self.alpha_lr * gradient).clamp(0, 1)
