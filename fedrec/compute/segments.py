"""Moving values between owners, pairs and padded batches, with gradients that cost what they move.

Pairs stand owner after owner. So what each owner hands to its pairs is a repetition, its gradient
a sum of neighbours; and padding only moves rows.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch

from fedrec.compute.operations import bag_sum
from fedrec.types import IntArray, offsets_of

__all__ = ["contiguous_sum", "pad_rows", "padded_places", "repeat_rows", "unpad_rows"]

Tensor: TypeAlias = "torch.Tensor"


def contiguous_sum(values: Tensor, offsets: Tensor) -> Tensor:
    """Return the sums of neighbouring rows, added in their order; no gradient.

    Args:
        values: float [q, ...].
        offsets: int64 [n + 1]; owner ``i`` has the rows ``offsets[i]:offsets[i + 1]``.

    Returns:
        float [n, ...], zero for an owner without rows.
    """
    if len(values) == 0:
        return values.new_zeros((len(offsets) - 1, *values.shape[1:]))
    flat = values.reshape(len(values), -1)
    sums = bag_sum(flat, torch.arange(len(flat)), offsets)
    return sums.reshape(len(offsets) - 1, *values.shape[1:])


def repeat_rows(values: Tensor, offsets: IntArray) -> Tensor:
    """Return each owner's row once for every one of its pairs.

    Args:
        values: float [n, ...].
        offsets: int64 [n + 1], the pairs of each owner.

    Returns:
        float [q, ...].
    """
    repeated: Tensor = _Repeat.apply(values, torch.from_numpy(offsets))  # type: ignore[no-untyped-call]
    return repeated


class _Repeat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(offsets)
        return values.repeat_interleave(offsets.diff(), dim=0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (offsets,) = ctx.saved_tensors
        return contiguous_sum(grad, offsets), None


def padded_places(counts: IntArray) -> tuple[Tensor, Tensor]:
    """Return how neighbouring rows of owners fill a rectangle, and where each row lies there.

    Args:
        counts: int64 [c], rows of each owner, at least 1.

    Returns:
        int64 [c, longest]: the row of each place, the last of its owner repeated; int64 [q]: the
        place of each row in the flattened rectangle.
    """
    starts, longest = offsets_of(counts)[:-1], int(counts.max())
    within = np.arange(longest)
    rows = starts[:, None] + np.minimum(within, counts[:, None] - 1)
    place = np.flatnonzero((within < counts[:, None]).ravel())
    return torch.from_numpy(rows), torch.from_numpy(place)


def pad_rows(values: Tensor, rows: Tensor, place: Tensor) -> Tensor:
    """Return rows laid out in a rectangle; what is repeated there gets no gradient.

    Args:
        values: float [q, ...].
        rows: int64 [c, longest] of `padded_places`.
        place: int64 [q] of `padded_places`.

    Returns:
        float [c, longest, ...].
    """
    flat: Tensor = _Move.apply(values, rows.flatten(), place)  # type: ignore[no-untyped-call]
    return flat.reshape(*rows.shape, *values.shape[1:])


def unpad_rows(values: Tensor, place: Tensor) -> Tensor:
    """Return the rows of a rectangle one after the other.

    Args:
        values: float [c, longest, ...].
        place: int64 [q] of `padded_places`.

    Returns:
        float [q, ...].
    """
    return values.flatten(0, 1).index_select(0, place)


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return values.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (place,) = ctx.saved_tensors
        return grad.index_select(0, place), None, None
