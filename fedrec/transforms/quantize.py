"""Quantisation: values travel as float16, or as int8 with a scale for each row."""

from abc import abstractmethod
from dataclasses import replace
from math import prod
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fedrec.aggregation.lengths import slices_of
from fedrec.aggregation.update import RowBlock
from fedrec.compute.context import RoundContext
from fedrec.errors import NumericError
from fedrec.transforms.encoding import Encoding, numbers16
from fedrec.types import FloatArray, IntArray

_LARGEST = 65504.0
"""Of float16."""
_LEAST = 2.0**-24
"""Above 0, of float16."""


class Quantize(Encoding):
    """Base of transforms that round values.

    `fedrec.training.executors.numba.transforms` rounds in the same operations.

    Args:
        rounding: ``stochastic``: up or down at random, so that a sum over clients is right on
            average (to 1/65536 of a step); or ``nearest``.

    Attributes:
        limit: The largest absolute value that fits.
        scaled: Whether rows have a scale.
        dtype: Of the values as they travel.
    """

    stage: ClassVar[Literal[0, 1, 2]] = 2
    limit: ClassVar[float]
    scaled: ClassVar[bool] = False
    dtype: ClassVar[type[np.generic]]

    rounding: Literal["stochastic", "nearest"] = "stochastic"

    def stream(self, name: str) -> str:
        """Return what the random words of a parameter are drawn for."""
        return f"{type(self).__name__} {name}"

    def check(self, name: str, largest: float) -> None:
        """Check that the largest absolute value of a parameter fits.

        Raises:
            NumericError: If it does not.
        """
        if not largest <= self.limit:
            raise NumericError(
                f"the update of '{name}' has the value {largest:.3g}, above {self.limit:.3g}, the "
                f"largest of {type(self).__name__.lower()}; lower the rates of train.optimizers, "
                "or put the transform clip before"
            )

    @abstractmethod
    def steps(self, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the step of values, and how many steps each is.

        Args:
            rows: float32 [n, size].

        Returns:
            float32, [n, size] or [n, 1]; float32 [n, size].
        """

    def encoded(
        self, name: str, block: RowBlock, clients: IntArray, context: RoundContext
    ) -> RowBlock:
        """Return rows in the narrow type, with their scales where they have some."""
        rows = block.values.reshape(len(block.values), prod(block.values.shape[1:]))
        values, scale = np.empty(rows.shape, self.dtype), np.empty(len(rows), np.float16)
        numbers = None
        if self.rounding == "stochastic":
            numbers = numbers16(self.stream(name), block, clients, context)
        self.check(name, max(float(rows.max(initial=0)), -float(rows.min(initial=0))))
        for some in slices_of(rows):
            step, steps = self.steps(rows[some])
            rounded = _rounded(steps, None if numbers is None else numbers[some])
            if self.scaled:
                scale[some] = step[:, 0]
                np.clip(rounded, -127, 127, out=rounded)
            else:
                rounded *= step
            values[some] = rounded
        values = values.reshape(block.values.shape)
        return replace(block, values=values, scale=scale if self.scaled else None)


class Float16(Quantize):
    """Values travel as float16.

    Args:
        rounding: ``stochastic`` or ``nearest``.
    """

    limit: ClassVar[float] = _LARGEST
    dtype: ClassVar[type[np.generic]] = np.float16

    def steps(self, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the distance from one float16 to the next for each value."""
        step = _steps_of_float16(rows)
        return step, rows / step


class Int8(Quantize):
    """Values travel as whole numbers from -127 to 127, with a scale in float16 for each row.

    The scale of a row is its largest absolute value divided by 127, rounded up.

    Args:
        rounding: ``stochastic`` or ``nearest``.

    Reference: alistarh2017qsgd, section 3, with 127 levels of a row's largest value.
    """

    reference: ClassVar[str] = "alistarh2017qsgd"
    limit: ClassVar[float] = 127 * _LARGEST
    scaled: ClassVar[bool] = True
    dtype: ClassVar[type[np.generic]] = np.int8

    def steps(self, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the scale of each row; 0, of a row of zeros, divides as the least of float16."""
        # Column by column, because numpy looks at short rows one by one.
        largest = np.abs(np.ascontiguousarray(rows.T)).max(axis=0, initial=0)
        wanted = largest[:, None] / np.float32(127)
        step = _steps_of_float16(wanted)
        scale = np.ceil(wanted / step) * step
        return scale, rows / np.maximum(scale, np.float32(_LEAST))


def _steps_of_float16(values: FloatArray) -> FloatArray:
    """Return the distance from one float16 to the next, a power of two, at each float32."""
    exponent = np.ascontiguousarray(values).view(np.int32) & 0x7F800000
    np.maximum(exponent, 113 << 23, out=exponent)
    exponent -= 10 << 23
    return exponent.view(np.float32)


def _rounded(steps: FloatArray, numbers: NDArray[np.uint16] | None) -> FloatArray:
    """Return whole numbers next to some, float32; up where a random number is below the rest.

    Args:
        steps: float32 [n, size]; overwritten.
        numbers: uint16 [n, size]; None: the nearest.
    """
    if numbers is None:
        return np.rint(steps, out=steps)
    rounded = np.floor(steps)
    steps -= rounded
    steps *= np.float32(2**16)
    steps -= np.float32(0.5)
    rounded += numbers < steps
    return rounded
