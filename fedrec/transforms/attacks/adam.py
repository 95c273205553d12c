"""Adam for what attackers fit themselves, which they go on with in the next round."""

from collections.abc import Callable, Mapping

import numpy as np

from fedrec.types import FloatArray

BETAS, TINY = (0.9, 0.999), 1e-8


def fitted(
    values: FloatArray,
    memory: Mapping[str, FloatArray],
    gradient: Callable[[FloatArray, int], FloatArray],
    steps: int,
    rate: float,
) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Return values after some steps of Adam, and what it remembers.

    Args:
        values: float64, any shape.
        memory: From the last call; empty before the first.
        gradient: From values and the number of the step, from 0, to the gradient.
        steps: How many.
        rate: The step size.

    Reference: kingma2015adam, Algorithm 1.
    """
    first = memory.get("first", np.zeros_like(values))
    second = memory.get("second", np.zeros_like(values))
    before = int(memory.get("steps", np.zeros(1, np.int64))[0])
    for number in range(steps):
        slope, t = gradient(values, number), before + number + 1
        first = BETAS[0] * first + (1 - BETAS[0]) * slope
        second = BETAS[1] * second + (1 - BETAS[1]) * slope**2
        spread = np.sqrt(second / (1 - BETAS[1] ** t)) + TINY
        values = values - rate * first / (1 - BETAS[0] ** t) / spread
    return values, {"first": first, "second": second, "steps": np.array([before + steps])}
