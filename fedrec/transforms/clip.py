"""Clipping: the norm of what a client sends is bounded."""

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedrec.aggregation.lengths import of_rows, scaled, squared_lengths, squared_rows
from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError
from fedrec.transforms.base import Transform
from fedrec.types import FloatArray


class Clip(Transform):
    r"""Shortens what is longer than a bound: :math:`\Delta \min(1, C / \lVert \Delta \rVert)`.

    Args:
        norm: C.
        per: ``update``: the norm is that of all that a client sends; or ``row``: of each item's
            row by itself, and of each dense parameter.

    Reference: mcmahan2018learning, section 2.
    """

    reference: ClassVar[str] = "mcmahan2018learning"

    norm: float = Field(gt=0)
    per: Literal["update", "row"] = "update"

    def without_effect(self, run: Any) -> list[str]:
        """Refuse what a client rule sends beside the changes: it would not be bounded."""
        if beside := run.task.client_rule.up:
            raise ConfigError(
                f"transforms: clip does not bound the {' and '.join(beside)} that the client rule "
                "sends beside each parameter; take another rule, or leave clip out"
            )
        return []

    def on_update(self, batch: UpdateBatch, context: RoundContext) -> UpdateBatch:
        """Return the clipped updates."""
        squares = squared_rows(batch)
        if self.per == "update":
            squares = of_rows(batch, squared_lengths(batch))
        return scaled(batch, {name: self._factors(each) for name, each in squares.items()})

    def _factors(self, squares: FloatArray) -> FloatArray:
        """Return what rows are multiplied by, float32 [n], given their squared norms."""
        factors = np.ones(len(squares), np.float32)
        long = np.flatnonzero(squares > self.norm**2)
        factors[long] = self.norm / np.sqrt(squares[long])
        return factors
