"""How much an update counts that was trained from an old version of the shared parameters."""

from typing import Any, Literal

import numpy as np
from pydantic import Field

from fedrec.aggregation.fixed_point import FACTOR
from fedrec.plugins import Section
from fedrec.types import FloatArray, IntArray


class Staleness(Section):
    r"""How much a late update counts: s of the number of versions that were made meanwhile.

    Factors are rounded to multiples of :math:`2^{-31}`, so that powers that differ in the last bit
    between machines give the same sums.

    Args:
        name: ``polynomial``, :math:`(1 + s)^{-a}`; ``hinge``, 1 up to a number of versions and
            then :math:`1 / (a (s - b) + 1)`; or ``constant``, 1.
        exponent: a of ``polynomial``.
        slope: a of ``hinge``.
        grace: b of ``hinge``, versions.

    Reference: xie2020asynchronous, section 5.2; nguyen2022federated.
    """

    name: Literal["polynomial", "hinge", "constant"] = "polynomial"
    exponent: float = Field(0.5, ge=0)
    slope: float = Field(10.0, gt=0)
    grace: int = Field(4, ge=0)

    def factors(self, staleness: IntArray) -> FloatArray:
        """Return how much updates count, float64 [n] in [0, 1].

        Args:
            staleness: int64 [n], from 0.
        """
        s = staleness.astype(np.float64)
        factors = np.ones(len(s))
        if self.name == "polynomial":
            factors = (1.0 + s) ** -self.exponent
        elif self.name == "hinge":
            factors = 1.0 / (self.slope * np.maximum(s - self.grace, 0.0) + 1.0)
        return np.asarray(np.rint(factors * FACTOR) / FACTOR)

    def without_effect(self, run: Any) -> list[str]:
        """Say which options belong to another name."""
        options = {"polynomial": ("exponent",), "hinge": ("slope", "grace")}
        others = ((n, each) for n, names in options.items() for each in names if n != self.name)
        lines = [line for n, each in others for line in self.unused(f"it belongs to {n}", each)]
        if self.name == "polynomial" and self.exponent == 0:
            lines.append("exponent: 0 has no effect: it is constant")
        return lines
