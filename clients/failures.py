"""Which of some clients fail, and why, in a line."""

from collections.abc import Callable

import numpy as np

from fedrec.config.sources import place_in_plugin
from fedrec.errors import FedRecError, printable
from fedrec.types import IntArray


def failing_of(
    call: Callable[[IntArray], object], rows: IntArray, error: Exception
) -> dict[int, Exception]:
    """Return those of some clients that a call fails for on their own, found by halves."""
    if len(rows) == 1:
        return {int(rows[0]): error}
    failing: dict[int, Exception] = {}
    for some in np.array_split(rows, 2):
        try:
            call(some)
        except Exception as cause:
            failing |= failing_of(call, some, cause)
    return failing


def line_of(error: Exception) -> str:
    """Return what an error says, and where in a plug-in it arose."""
    text = printable(" ".join(str(error).split())) or type(error).__name__
    if isinstance(error, FedRecError):
        return text
    place = place_in_plugin(error)
    return f"{type(error).__name__}: {text}" + (f" ({place})" if place else "")
