"""How clients are cut to parts that are trained in one go."""

from __future__ import annotations

from fedrec.types import IntArray

__all__ = ["parts"]


def parts(offsets: IntArray, budget: int, most: int | None = None) -> list[slice]:
    """Cut consecutive clients so that what a part takes is bounded.

    Args:
        offsets: int64 [c + 1], what the clients before each one take, in any unit.
        budget: Of a part; a client that takes more is a part of its own.
        most: Clients of a part at most; None: any number.

    Returns:
        Slices of the clients, in order, none empty.
    """
    cuts, start = [], 0
    for at in range(1, len(offsets) - 1):
        if offsets[at + 1] - offsets[start] > budget or at - start == most:
            cuts.append(slice(start, at))
            start = at
    return [*cuts, slice(start, len(offsets) - 1)] if len(offsets) > 1 else []
