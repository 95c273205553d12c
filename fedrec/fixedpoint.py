"""Sums that do not depend on order: int64 fixed point with a power-of-two scale.

A float sum changes its bits with the order and the grouping of its terms. An integer sum does not,
so one client, a node or a cluster may be summed in any way.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from fedrec.errors import NumericError
from fedrec.types import FloatArray, IntArray

__all__ = ["SCALE", "add", "from_fixed", "segment_sum", "to_fixed"]

SCALE = 32
"""Default exponent: steps of 2**-32, sums up to 2**31."""

_LIMIT = 2.0**62
_SLICE = 4096


def to_fixed(values: FloatArray, name: str, scale: int = SCALE) -> IntArray:
    """Round to fixed point.

    Args:
        values: float [...].
        name: of the parameter, for the error.
        scale: exponent of two.

    Returns:
        int64 [...], value = integer / 2**scale.

    Raises:
        NumericError: If a value is not finite or too large.
    """
    scaled = np.asarray(values, np.float64) * 2.0**scale
    _check(float(np.abs(scaled).max(initial=0.0)), name, scale)
    return np.rint(scaled).astype(np.int64)


def _check(largest: float, name: str, scale: int) -> None:
    if not math.isfinite(largest):
        raise NumericError(
            f"the update of '{name}' is not finite; lower train.item_lr or train.local_optimizer.lr"
        )
    if largest >= _LIMIT:
        raise NumericError(
            f"the update of '{name}' overflows fixed point with scale 2**{scale} "
            f"(largest value {largest / 2.0**scale:.3g}); lower train.item_lr"
        )


def from_fixed(values: IntArray, scale: int = SCALE) -> FloatArray:
    """float64 [...], what `to_fixed` rounded."""
    return np.asarray(values, np.float64) * 2.0**-scale


def add(a: IntArray, b: IntArray, name: str) -> IntArray:
    """a + b.

    Raises:
        NumericError: If the sum overflows.
    """
    total = np.add(a, b, dtype=np.int64)
    if bool((((a ^ total) & (b ^ total)) < 0).any()):
        raise NumericError(f"the summed update of '{name}' overflows; lower train.item_lr")
    return np.asarray(total)


def segment_sum(
    values: FloatArray, owners: IntArray, n: int, name: str, scale: int = SCALE
) -> IntArray:
    """Sum rows that belong together, exactly.

    Args:
        values: float [m, ...].
        owners: int64 [m] in [0, n).
        n: number of sums.
        name: of the parameter, for the error.
        scale: exponent of two.

    Returns:
        int64 [n, ...], fixed point.

    Raises:
        NumericError: If a value is not finite or a sum may overflow.
    """
    total = torch.zeros((n, *values.shape[1:]), dtype=torch.int64)
    at = torch.from_numpy(np.ascontiguousarray(owners))
    terms = int(torch.bincount(at, minlength=1).max()) if len(at) else 0
    for start in range(0, len(values), _SLICE):
        # Slices stay in the cache; a power of two scales without rounding.
        part = torch.from_numpy(np.ascontiguousarray(values[start : start + _SLICE])).double()
        part = part.mul_(2.0**scale).round_()
        largest = float(part.abs().max())
        _check(largest, name, scale)
        if largest * terms >= 2.0**63:
            raise NumericError(
                f"the summed update of '{name}' may overflow fixed point with scale 2**{scale} "
                f"(largest value {largest / 2.0**scale:.3g}, {terms} terms); lower train.item_lr"
            )
        total.index_add_(0, at[start : start + _SLICE], part.long())
    return np.asarray(total.numpy())
