"""Ditto: a private model beside the shared one, pulled towards it."""

from collections.abc import Collection, Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from fedrec.personalization.base import Personalization, Phase, View
from fedrec.types import ParamSpec


class Ditto(Personalization):
    r"""Each client ranks with a private model that stays near the shared one.

    The shared model :math:`w` is trained as without it. Then the private one, which lasts from
    round to round, makes as many steps of

    .. math:: v \gets v - \eta\,(\nabla F(v) + \lambda (v - w^t))

    with :math:`w^t` as the round began. All that a model trains is copied; of item tables the
    client's positives are, and only the rows of a step are pulled. Clients compute twice as much.

    Args:
        pull: :math:`\lambda`, which counts against the loss as ``train.reduction`` has it. 0 is
            training alone.

    Reference: li2021ditto, Algorithm 1.
    """

    reference: ClassVar[str] = "li2021ditto"
    views: ClassVar[tuple[View, ...]] = ("mixed", "global")

    pull: float = Field(1.0, ge=0)

    def copies(self, specs: Mapping[str, ParamSpec]) -> Collection[str]:
        """Return all of them."""
        return specs

    def phases(self, specs: Mapping[str, ParamSpec], copies: Collection[str]) -> tuple[Phase, ...]:
        """Return the phase of the shared model and that of the private one."""
        return Phase(tuple(specs), views=("global",)), Phase(tuple(copies))

    def penalty(self, name: str, copy: Tensor, received: Tensor) -> Tensor | None:
        """Return half the squared distance to the shared values, times ``pull``."""
        return self.pull / 2 * (copy - received).square().sum() if self.pull > 0 else None
