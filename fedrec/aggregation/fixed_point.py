"""Sums that do not depend on order: int64 fixed point with a power-of-two scale.

A float sum changes its bits with the order and the grouping of its terms. An integer sum does not,
so one client, a node or a cluster may be summed in any way.
"""

from __future__ import annotations

import math
import sys
from importlib.util import find_spec

import numpy as np
import torch

from fedrec.errors import NumericError
from fedrec.types import FloatArray, IntArray

__all__ = [
    "SCALE",
    "add",
    "checked",
    "fits",
    "from_fixed",
    "merge_rows",
    "segment_sum",
    "sum_rows",
    "to_fixed",
    "total_of",
]

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
        raise NumericError(f"the update of '{name}' is not finite")
    if largest >= _LIMIT:
        raise NumericError(
            f"the update of '{name}' overflows fixed point with scale 2**{scale} "
            f"(largest value {largest / 2.0**scale:.3g})"
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
        raise NumericError(f"the summed update of '{name}' overflows")
    return np.asarray(total)


def total_of(values: IntArray, name: str) -> int:
    """The sum of all.

    Raises:
        NumericError: If it overflows.
    """
    # Sums of the high and of the low halves cannot overflow.
    total = (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())
    return checked(total, name)


def checked(total: int, name: str) -> int:
    """A sum.

    Raises:
        NumericError: If it does not fit into 64 bits.
    """
    if not -(2**63) <= total < 2**63:
        raise NumericError(f"the sum of '{name}' over the clients overflows fixed point")
    return total


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
        part = torch.from_numpy(np.ascontiguousarray(values[start : start + _SLICE]))
        part = part.to(torch.float64, copy=True).mul_(2.0**scale).round_()
        largest = float(part.abs().max())
        _check(largest, name, scale)
        if largest * terms >= 2.0**63:
            raise NumericError(
                f"the summed update of '{name}' may overflow fixed point with scale 2**{scale} "
                f"(largest value {largest / 2.0**scale:.3g}, {terms} terms); "
                "lower the rates of train.optimizers"
            )
        total.index_add_(0, at[start : start + _SLICE], part.long())
    return np.asarray(total.numpy())


def fits(largest: float, heaviest: float, most: int) -> bool:
    """Whether no sum of rows in fixed point can be wrong.

    Args:
        largest: absolute value of a term, as an integer; not finite if one was not.
        heaviest: weight of a client, as an integer.
        most: terms of a sum.
    """
    return largest < _LIMIT and max(largest, heaviest) * most < 2.0**63


def sum_rows(
    values: FloatArray,
    ids: IntArray,
    offsets: IntArray,
    factor: FloatArray,
    weight: FloatArray,
    name: str,
    scale: int = SCALE,
    compiled: bool = True,
) -> tuple[IntArray, IntArray, IntArray]:
    """Sum the rows of each item over some clients, exactly.

    Args:
        values: float [n, ...].
        ids: int64 [n], the item of each row.
        offsets: int64 [c + 1], the rows of each client.
        factor: float64 [c], what a client's rows are multiplied by.
        weight: float64 [c], from 0, of each client.
        name: of the parameter, for the error.
        scale: exponent of two.
        compiled: In machine code, where numba is installed; changes no bit.

    Returns:
        The items that occur, int64 [m], sorted; their sums, int64 [m, ...], fixed point; the
        weight of the clients that have them, int64 [m], fixed point with the default scale.

    Raises:
        NumericError: If a value is not finite or a sum may overflow.
    """
    fixed = to_fixed(weight, "weight")
    if compiled and find_spec("numba") is not None and len(ids) > 0:
        from fedrec.aggregation import sums_numba as sums

        flat = np.require(values.reshape(len(ids), -1), requirements=["C", "W"])
        scaled = np.asarray(factor, np.float64) * 2.0**scale
        own = [np.require(array, np.int64, ["C", "W"]) for array in (ids, offsets)]
        items, total, heavy, largest, most = sums.sum_rows(flat, *own, scaled, fixed)
        if fits(largest, float(fixed.max()), most):
            return items, total.reshape(-1, *values.shape[1:]), heavy
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    counts = np.bincount(ids)
    items = np.flatnonzero(counts).astype(np.int64)
    place = (np.cumsum(counts > 0) - 1)[ids]
    weighed = values
    if (factor != 1.0).any():
        weighed = np.asarray(values, np.float64) * factor[owner].reshape(
            -1, *[1] * (values.ndim - 1)
        )
    total = segment_sum(weighed, place, len(items), name, scale)
    return items, total, segment_sum(weight[owner], place, len(items), "weight")


def merge_rows(
    a: tuple[IntArray, IntArray, IntArray],
    b: tuple[IntArray, IntArray, IntArray],
    name: str,
    compiled: bool | None = None,
) -> tuple[IntArray, IntArray, IntArray]:
    """Add up two results of `sum_rows`.

    Args:
        a: items, sums and weights.
        b: likewise.
        name: of the parameter, for the error.
        compiled: In machine code, or not; None: where it is loaded. Changes no bit.

    Raises:
        NumericError: If a sum overflows.
    """
    # A process that has not trained in machine code is done sooner than numba is imported.
    loaded = "fedrec.training.executors.numba" in sys.modules if compiled is None else compiled
    if loaded and len(a[0]) > 0 and len(b[0]) > 0:
        from fedrec.aggregation import sums_numba as sums

        flat = [_flat(part) for part in (a, b)]
        items, total, weight, fits, light = sums.merge_rows(*flat[0], *flat[1])
        if fits and light:
            return items, total.reshape(-1, *a[1].shape[1:]), weight
    items = np.union1d(a[0], b[0])
    at, other = np.searchsorted(items, a[0]), np.searchsorted(items, b[0])
    n = len(items)
    total = add(_placed(a[1], at, n), _placed(b[1], other, n), name)
    return items, total, add(_placed(a[2], at, n), _placed(b[2], other, n), "weight")


def _placed(values: IntArray, at: IntArray, n: int) -> IntArray:
    out = np.zeros((n, *values.shape[1:]), np.int64)
    out[at] = values
    return out


def _flat(part: tuple[IntArray, IntArray, IntArray]) -> list[IntArray]:
    """Items, sums as [m, d], and weights, contiguous and writable."""
    ids, sums, weight = part
    arrays = (ids, sums.reshape(len(ids), -1), weight)
    return [np.require(array, np.int64, ["C", "W"]) for array in arrays]
