"""How clients are cut to parts that are trained in one go."""

from __future__ import annotations

from fedrec.types import IntArray

__all__ = ["parts"]


def parts(offsets: IntArray, budget: int) -> list[slice]:
    """Cut consecutive clients so that the memory of a part is bounded.

    Args:
        offsets: int64 [c + 1], how many rows the clients before each one touch at most (see
            `fedrec.training.client_state.capacity`).
        budget: Rows of a part; a client that needs more is a part of its own.

    Returns:
        Slices of the clients, in order, none empty.
    """
    found, start = [], 0
    for at in range(1, len(offsets) - 1):
        if offsets[at + 1] - offsets[start] > budget:
            found.append(slice(start, at))
            start = at
    return [*found, slice(start, len(offsets) - 1)] if len(offsets) > 1 else []
