"""Sums that do not depend on order: int64 fixed point with a power-of-two scale.

A float sum changes its bits with the order and the grouping of its terms. An integer sum does not,
so one client, a node or a cluster may be summed in any way.
"""

import math
from typing import TypeAlias

import numpy as np
import torch

from fedrec.aggregation.update import RowBlock
from fedrec.errors import NumericError
from fedrec.types import FloatArray, IntArray

SCALE = 32
"""Default exponent: steps of 2**-32, sums up to 2**31."""

FACTOR = 2**31
"""Of `times`: its factors are multiples of one part in so many."""

RowTotals: TypeAlias = tuple[IntArray, IntArray, IntArray]
"""Items, int64 [m], sorted; their sums, int64 [m, ...]; the weight of the clients that have them,
int64 [m]."""

_LIMIT = 2.0**62
_SLICE = 2**18
"""Values that are rounded at once, so that they stay in the cache."""


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
    check_terms(float(np.abs(scaled).max(initial=0.0)), name, scale=scale)
    return np.rint(scaled).astype(np.int64)


def check_terms(largest: float, name: str, terms: int = 1, scale: int = SCALE) -> None:
    """Check that no sum in fixed point can be wrong.

    Args:
        largest: absolute value of a term, scaled; not finite if one was not.
        name: of the parameter, for the error.
        terms: of a sum, at most.
        scale: exponent of two.

    Raises:
        NumericError: If one may be.
    """
    if not math.isfinite(largest):
        raise NumericError(f"the update of '{name}' is not finite")
    point, value = f"fixed point with scale 2**{scale}", f"{largest / 2.0**scale:.3g}"
    if largest >= _LIMIT:
        raise NumericError(f"the update of '{name}' overflows {point} (largest value {value})")
    if largest * terms >= 2.0**63:
        raise NumericError(
            f"the summed update of '{name}' may overflow {point} (largest value {value}, {terms} "
            "terms); lower the rates of train.optimizers"
        )


def from_fixed(values: IntArray, scale: int = SCALE) -> FloatArray:
    """Return what `to_fixed` rounded, float64 [...]."""
    return np.asarray(values, np.float64) * 2.0**-scale


def add(a: IntArray, b: IntArray, name: str) -> IntArray:
    """Return a + b.

    Raises:
        NumericError: If the sum overflows.
    """
    total = np.add(a, b, dtype=np.int64)
    if bool((((a ^ total) & (b ^ total)) < 0).any()):
        raise NumericError(f"the summed update of '{name}' overflows")
    return np.asarray(total)


def times(values: IntArray, factor: float) -> IntArray:
    """Return values times a factor, rounded once; halves are rounded up.

    The factor is rounded to a multiple of ``1 / FACTOR`` before, so the product is exact.

    Args:
        values: int64 [...], any.
        factor: From 0 to 1; 1 changes nothing.
    """
    parts = round(factor * FACTOR)
    # The product has up to 95 bits: of the lower 32 bits of a value it is formed apart.
    high, low = values >> 32, values & 0xFFFFFFFF
    return np.asarray(high * (2 * parts) + ((low * parts + FACTOR // 2) // FACTOR))


def total_of(values: IntArray, name: str) -> int:
    """Return the sum of all; a NumericError if it overflows."""
    return checked(sum(values.tolist()), name)


def checked(total: int, name: str) -> int:
    """Return a sum; a NumericError if it does not fit into 64 bits."""
    if not -(2**63) <= total < 2**63:
        raise NumericError(f"the sum of '{name}' over the clients overflows fixed point")
    return total


def segment_sum(
    values: FloatArray, owners: IntArray, n: int, name: str, factor: FloatArray | None = None
) -> IntArray:
    """Sum rows that belong together, exactly.

    Args:
        values: float [m, ...].
        owners: int64 [m] in [0, n).
        n: number of sums.
        name: of the parameter, for the error.
        factor: float64 [m], what each row is multiplied by; None: 1.

    Returns:
        int64 [n, ...], fixed point.

    Raises:
        NumericError: If a value is not finite or a sum may overflow.
    """
    rows = torch.from_numpy(np.ascontiguousarray(values))
    at = torch.from_numpy(np.ascontiguousarray(owners))
    if factor is not None:
        rows = rows.double() * torch.from_numpy(factor).reshape(-1, *[1] * (rows.dim() - 1))
    terms = int(torch.bincount(at).max()) if len(at) else 0
    largest = float(max(abs(end) for end in torch.aminmax(rows))) if rows.numel() else 0.0
    largest *= 2.0**SCALE
    check_terms(largest, name, terms)
    # Doubles add whole numbers below 2**53 exactly, and faster.
    kind = torch.float64 if largest * terms < 2.0**52 else torch.int64
    total = torch.zeros((n, *rows.shape[1:]), dtype=kind)
    step = max(_SLICE // max(math.prod(rows.shape[1:]), 1), 1)
    for start in range(0, len(rows), step):
        # A power of two scales without rounding.
        whole_numbers = (rows[start : start + step] * 2.0**SCALE).round_().to(kind)
        if n == 1:
            total += whole_numbers.sum(0)
        else:
            total.index_add_(0, at[start : start + step], whole_numbers)
    return np.asarray(total.long().numpy())


def sum_rows(
    block: RowBlock, weight: FloatArray, name: str, factor: FloatArray | None = None
) -> RowTotals:
    """Sum the rows of each item over some clients, exactly.

    Args:
        block: The changed rows.
        weight: float64 [c], from 0, of each client.
        name: of the parameter, for the error.
        factor: float64 [c], what a client's rows are multiplied by; None: 1.

    Raises:
        NumericError: If a value is not finite or a sum may overflow.
    """
    owner = np.repeat(np.arange(len(weight)), np.diff(block.offsets))
    counts = np.bincount(block.ids)
    items = np.flatnonzero(counts).astype(np.int64)
    place = (np.cumsum(counts > 0) - 1)[block.ids]
    of_rows = None if factor is None else factor[owner]
    total = segment_sum(block.values, place, len(items), name, of_rows)
    return items, total, segment_sum(weight[owner], place, len(items), "weight")


def merge_rows(a: RowTotals, b: RowTotals, name: str) -> RowTotals:
    """Add up two results of `sum_rows`.

    Raises:
        NumericError: If a sum overflows.
    """
    items = np.union1d(a[0], b[0])
    at, other = np.searchsorted(items, a[0]), np.searchsorted(items, b[0])

    def summed(column: int, name: str) -> IntArray:
        ours = np.zeros((len(items), *a[column].shape[1:]), np.int64)
        theirs = np.zeros_like(ours)
        ours[at], theirs[other] = a[column], b[column]
        return add(ours, theirs, name)

    return items, summed(1, name), summed(2, "weight")
