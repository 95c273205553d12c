"""Attackers send noise."""

from typing import ClassVar

from pydantic import Field

from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.transforms.attacks.base import Attack
from fedrec.transforms.pool import Values, rewritten
from fedrec.types import FloatArray, Params, State


class GaussianAttack(Attack):
    """Send normal noise in place of an update.

    Attackers are converted. The noise of a row has the root mean square of what the attackers that
    touched it would have sent, so its size tells nothing. Not targeted.

    Args:
        factor: By how much the noise is larger than an honest change.

    Reference: blanchard2017machine, whose noise has the deviation 200.
    """

    reference: ClassVar[str] = "blanchard2017machine"

    factor: float = Field(1.0, gt=0)

    def rewrite(
        self, state: State, pool: UpdateBatch, params: Params, context: RoundContext
    ) -> tuple[State, UpdateBatch]:
        """Return noise in place of each change."""
        generator = context.generator("gaussian-attack")

        def noise(values: Values) -> FloatArray:
            size = values.size.reshape(-1, *[1] * (values.honest.ndim - 1))
            return self.factor * size * generator.standard_normal(values.honest.shape)

        return state, rewritten(pool, noise)
