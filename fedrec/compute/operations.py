"""The operations that give equal bits wherever a row stands: what a ``flat`` model may use.

Clients are trained many at a time, flat in one computation. A run must not depend on who shares
it, so a row's result may not depend on its place in the array, on the length of the array or on
the number of threads. Most of torch promises no such thing: `torch.sigmoid` and
`torch.nn.functional.softplus` round differently in the vectorised body of an array and in its
rest, `mm` and `linear` by the number of rows.

Besides these, additions, products and other arithmetic of single elements are stable. Everything
here holds for the backward pass too, on CPU, for float32 and float64;
`tests/unit/fedrec/compute/test_operations.py` is the proof on the machine at hand.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import exp, log1p, tanh

from fedrec.types import IntArray

__all__ = [
    "MM_INNER",
    "MM_ROWS",
    "PaddedRows",
    "bag_sum",
    "contiguous_sum",
    "exp",
    "gather",
    "log1p",
    "log_sigmoid",
    "padded_mm",
    "repeat_rows",
    "row_dot",
    "segment_sum",
    "sigmoid",
    "softplus",
    "tanh",
]

MM_ROWS = 64
"""Rows of each matrix product of `padded_mm`; its width is filled up to a multiple of this."""

MM_INNER = 16
"""The inner dimension is filled up with zeros to a multiple of this."""

_CACHED_TILES = 16
"""Tiles whose product is finished while it is in the cache of the core."""


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    r"""Return the logistic function, float [...].

    .. math:: \sigma(x) = \tfrac12 \tanh(x / 2) + \tfrac12

    The error is absolute (one unit in the last place of 1), so far on the left the value is 0
    earlier than `torch.sigmoid`'s; take `log_sigmoid` where its logarithm is wanted.
    """
    return 0.5 * torch.tanh(0.5 * x) + 0.5


def log_sigmoid(x: torch.Tensor) -> torch.Tensor:
    r"""Return the logarithm of the logistic function, float [...], exact in both tails.

    .. math:: \log \sigma(x) = \min(x, 0) - \log(1 + e^{-|x|})
    """
    return torch.nn.functional.logsigmoid(x)


def softplus(x: torch.Tensor) -> torch.Tensor:
    r"""Return a smooth maximum of x and 0, float [...].

    .. math:: \log(1 + e^x) = -\log \sigma(-x)
    """
    return -torch.nn.functional.logsigmoid(-x)


def row_dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the inner products of the rows of two arrays: float [..., d] -> float [...]."""
    return (a * b).sum(-1)


def gather(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the rows ``values[index]``, with a gradient that is added up in order.

    The gradient of plain indexing is summed by all threads at once, in any order.

    Args:
        values: float [n, ...].
        index: int64 [...].

    Returns:
        float [*index.shape, ...].
    """
    rows = values.index_select(0, index.reshape(-1))
    return rows.reshape(*index.shape, *values.shape[1:])


def segment_sum(values: torch.Tensor, owners: torch.Tensor, n: int) -> torch.Tensor:
    """Sum the rows of each owner, added in the order in which they stand.

    Args:
        values: float [q, ...].
        owners: int64 [q], from 0 to n - 1, in any order.
        n: number of owners.

    Returns:
        float [n, ...], zero for an owner without rows.
    """
    return values.new_zeros((n, *values.shape[1:])).index_add_(0, owners, values)


def bag_sum(values: torch.Tensor, index: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Sum the rows that each owner chooses, added in the order in which they are named.

    The rows themselves are not laid out: the memory is that of the result. No gradient.

    Args:
        values: float [n, d].
        index: int64 [q], rows of ``values``, owner after owner; any number of times.
        offsets: int64 [u + 1], owner ``i`` chose ``index[offsets[i]:offsets[i + 1]]``.

    Returns:
        float [u, d], zero for an owner that chose none.
    """
    return torch.nn.functional.embedding_bag(
        index, values.detach(), offsets, mode="sum", include_last_offset=True
    )


def contiguous_sum(values: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Sum neighbouring rows, added in their order; no gradient.

    Args:
        values: float [q, ...].
        offsets: int64 [n + 1]; owner ``i`` has the rows ``offsets[i]:offsets[i + 1]``.

    Returns:
        float [n, ...], zero for an owner without rows.
    """
    n = len(offsets) - 1
    if len(values) == 0:
        return values.new_zeros((n, *values.shape[1:]))
    sums = bag_sum(
        values.reshape(len(values), -1), torch.arange(len(values), device=values.device), offsets
    )
    return sums.reshape(n, *values.shape[1:])


def repeat_rows(values: torch.Tensor, offsets: IntArray) -> torch.Tensor:
    """Return each owner's row once for every one of its pairs; they stand owner after owner.

    Args:
        values: float [n, ...].
        offsets: int64 [n + 1], the pairs of each owner.

    Returns:
        float [q, ...]; its gradient is a sum of neighbours.
    """
    repeated: torch.Tensor = _Repeat.apply(values, torch.as_tensor(offsets))  # type: ignore[no-untyped-call]
    return repeated


class _Repeat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(offsets)
        return values.repeat_interleave(offsets.diff(), dim=0)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (offsets,) = ctx.saved_tensors
        return contiguous_sum(grad, offsets), None


def padded_mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Multiply matrices in blocks of `MM_ROWS` rows of ``a``, the last filled up with zeros.

    A row of the result depends on that row of ``a`` and on ``b`` alone. The gradient for ``a``
    keeps that; the gradient for ``b`` is a sum over the rows of ``a`` and depends on all.

    Args:
        a: float [n, d].
        b: float [d, m].

    Returns:
        float [n, m].
    """
    result: torch.Tensor = _PaddedMM.apply(a, b)  # type: ignore[no-untyped-call]
    return result


class PaddedRows:
    """Rows that are laid out once for many products; the bits are those of `padded_mm`.

    Args:
        rows: float [n, d]; no gradient.
    """

    # Full tiles only: at the edges of a matrix BLAS takes other kernels, so with an inner
    # dimension of 5, say, even the place of a row within its block changes bits.

    def __init__(self, rows: torch.Tensor) -> None:
        self._count, self._inner = len(rows), _full(rows.shape[1], MM_INNER)
        tiles = -(-len(rows) // MM_ROWS)
        left = rows.new_zeros((tiles * MM_ROWS, self._inner))
        left[: len(rows), : rows.shape[1]] = rows
        self._tiles = left.view(tiles, MM_ROWS, self._inner)

    def mm(self, columns: torch.Tensor) -> torch.Tensor:
        """Return the product with a matrix, float [d, m] -> float [n, m]."""
        result = self._tiles.new_empty((*self._tiles.shape[:2], _full(columns.shape[1], MM_ROWS)))
        torch.bmm(self._tiles, self._laid_out(columns), out=result)
        return self._cut(result, columns)

    def products(self, columns: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the product with a matrix, some rows at a time, while they are in the cache.

        Args:
            columns: float [d, m].

        Yields:
            float [r, m] of the next rows, valid until the next are asked for.
        """
        right, rows = self._laid_out(columns), self._count
        held = self._tiles.new_empty((_CACHED_TILES, MM_ROWS, right.shape[2]))
        for start in range(0, len(self._tiles), _CACHED_TILES):
            left = self._tiles[start : start + _CACHED_TILES]
            result = held[: len(left)]
            torch.bmm(left, right[: len(left)], out=result)
            yield self._cut(result, columns)[: rows - start * MM_ROWS]

    def _laid_out(self, columns: torch.Tensor) -> torch.Tensor:
        # The transpose of a contiguous array, and a fresh copy: one layout, one alignment.
        right = columns.new_zeros((_full(columns.shape[1], MM_ROWS), self._inner))
        right[: columns.shape[1], : columns.shape[0]] = columns.T
        return right.T.expand(len(self._tiles), -1, -1)

    def _cut(self, result: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        # A view: to cut the edges off by copying costs as much as the product.
        return result.view(-1, result.shape[2])[: self._count, : columns.shape[1]]


class _PaddedMM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        return PaddedRows(a).mm(b)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        a, b = ctx.saved_tensors
        wants_a, wants_b = ctx.needs_input_grad
        return PaddedRows(grad).mm(b.T) if wants_a else None, a.T @ grad if wants_b else None


def _full(size: int, tile: int) -> int:
    return -(-size // tile) * tile
