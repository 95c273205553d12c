"""Quantisation: values travel as float16, or as int8 with a scale for each row."""

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from fedrec.compute.context import RoundContext
from fedrec.errors import NumericError
from fedrec.transforms.encoding import Encoding, uniform16
from fedrec.types import FloatArray, IntArray, RowBlock

_LARGEST = 65504.0
"""Of float16."""
_LEAST = 2.0**-24
"""Above 0, of float16."""


class Quantize(Encoding):
    """Base of transforms that round values.

    Args:
        rounding: ``stochastic``: up or down at random, so that a sum over clients is right on
            average; or ``nearest``.
    """

    stage: ClassVar[Literal[0, 1, 2]] = 2

    rounding: Literal["stochastic", "nearest"] = "stochastic"

    def rounded(
        self,
        steps: FloatArray,
        name: str,
        block: RowBlock,
        clients: IntArray,
        context: RoundContext,
    ) -> FloatArray:
        """Return whole numbers next to the given ones, float32, of the shape of the rows."""
        if self.rounding == "nearest":
            return np.rint(steps)
        return np.floor(steps + uniform16(f"{type(self).__name__} {name}", block, clients, context))


class Float16(Quantize):
    """Values travel as float16.

    Args:
        rounding: ``stochastic`` or ``nearest``.
    """

    def encoded(
        self, name: str, block: RowBlock, clients: IntArray, context: RoundContext
    ) -> RowBlock:
        """Return rows of float16."""
        values = block.values
        _check(name, float(np.abs(values).max(initial=0)), _LARGEST, "float16")
        # The step from one float16 to the next, a power of two.
        step = np.ldexp(np.float32(1), np.maximum(np.frexp(values)[1] - 1, -14) - 10)
        narrow = self.rounded(values / step, name, block, clients, context) * step
        return replace(block, values=narrow.astype(np.float16))


class Int8(Quantize):
    """Values travel as whole numbers from -127 to 127, with a scale in float16 for each row.

    The scale of a row is its largest absolute value divided by 127, rounded up.

    Args:
        rounding: ``stochastic`` or ``nearest``.

    Reference: alistarh2017qsgd, section 3, with 127 levels of a row's largest value.
    """

    reference: ClassVar[str] = "alistarh2017qsgd"

    def encoded(
        self, name: str, block: RowBlock, clients: IntArray, context: RoundContext
    ) -> RowBlock:
        """Return rows of int8 with their scales."""
        axes = tuple(range(1, block.values.ndim))
        largest = np.abs(block.values).max(axis=axes, initial=0).astype(np.float32)
        _check(name, float(largest.max(initial=0)), 127 * _LARGEST, "int8")
        wanted = largest / np.float32(127)
        scale = wanted.astype(np.float16)
        low = scale.astype(np.float32) < wanted
        scale[low] = np.nextafter(scale[low], np.float16(np.inf))
        divisor = np.maximum(scale.astype(np.float32), np.float32(_LEAST))
        shape = (-1, *[1] * (block.values.ndim - 1))
        steps = block.values / divisor.reshape(shape)
        whole = self.rounded(steps, name, block, clients, context)
        return replace(block, values=np.clip(whole, -127, 127).astype(np.int8), scale=scale)


def _check(name: str, largest: float, limit: float, kind: str) -> None:
    """Check that a largest absolute value fits."""
    if not largest <= limit:
        raise NumericError(
            f"the update of '{name}' has the value {largest:.3g}, above {limit:.3g}, the largest "
            f"of {kind}; lower the rates of train.optimizers, or put the transform clip before"
        )
