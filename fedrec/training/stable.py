"""The operations that give equal bits wherever a row stands: the allow-list of the csr path.

Clients are trained many at a time, flat in one computation. A run must not depend on who shares
it, so a row's result may not depend on its place in the array, on the length of the array or on
the number of threads. Most of torch promises no such thing: `torch.sigmoid` and
`torch.nn.functional.softplus` round differently in the vectorised body of an array and in its
rest, `mm` and `linear` by the number of rows.

Besides these, additions, products and other arithmetic of single elements are stable, and so are
gathering by `gather`. Everything here holds for the backward pass too, on CPU, for float32 and
float64; `tests/unit/fedrec/training/test_stable.py` is the proof on the machine at hand.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = [
    "MM_ROWS",
    "MM_TILE",
    "exp",
    "gather",
    "log1p",
    "log_sigmoid",
    "padded_mm",
    "row_dot",
    "segment_sum",
    "sigmoid",
    "softplus",
    "tanh",
]

MM_ROWS = 64
"""Rows of each matrix product of `padded_mm`."""

MM_TILE = 64
"""The other dimensions are filled up with zeros to a multiple of this."""


def exp(x: torch.Tensor) -> torch.Tensor:
    """Exponential function, float [...]."""
    return torch.exp(x)


def tanh(x: torch.Tensor) -> torch.Tensor:
    """Hyperbolic tangent, float [...]."""
    return torch.tanh(x)


def log1p(x: torch.Tensor) -> torch.Tensor:
    """Logarithm of 1 + x, float [...]."""
    return torch.log1p(x)


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    r"""Logistic function, float [...].

    .. math:: \sigma(x) = \tfrac12 \tanh(x / 2) + \tfrac12

    The error is absolute (one unit in the last place of 1), so far on the left the value is 0
    earlier than `torch.sigmoid`'s; take `log_sigmoid` where its logarithm is wanted.
    """
    return 0.5 * torch.tanh(0.5 * x) + 0.5


def log_sigmoid(x: torch.Tensor) -> torch.Tensor:
    r"""Logarithm of the logistic function, float [...], exact in both tails.

    .. math:: \log \sigma(x) = \min(x, 0) - \log(1 + e^{-|x|})
    """
    return torch.nn.functional.logsigmoid(x)


def softplus(x: torch.Tensor) -> torch.Tensor:
    r"""Smooth maximum of x and 0, float [...].

    .. math:: \log(1 + e^x) = -\log \sigma(-x)
    """
    return -torch.nn.functional.logsigmoid(-x)


def row_dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner products of the rows of two arrays.

    Args:
        a: float [..., d].
        b: float [..., d].

    Returns:
        float [...].
    """
    return (a * b).sum(-1)


def gather(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The rows ``values[index]``, with a gradient that is added up in order.

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
    """Sums of the rows of each owner, added in the order in which they stand.

    Args:
        values: float [q, ...].
        owners: int64 [q], from 0 to n - 1, in any order.
        n: number of owners.

    Returns:
        float [n, ...], zero for an owner without rows.
    """
    return values.new_zeros((n, *values.shape[1:])).index_add_(0, owners, values)


def padded_mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Matrix product, in blocks of `MM_ROWS` rows of ``a``, the last filled up with zeros.

    A row of the result depends on that row of ``a`` and on ``b`` alone. The gradient for ``a``
    keeps that; the gradient for ``b`` is a sum over the rows of ``a`` and depends on all.

    Args:
        a: float [n, d].
        b: float [d, m].

    Returns:
        float [n, m].
    """
    product: torch.Tensor = _PaddedMM.apply(a, b)  # type: ignore[no-untyped-call]
    return product


class _PaddedMM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        return _blockwise(a, b)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        a, b = ctx.saved_tensors
        wants_a, wants_b = ctx.needs_input_grad
        return _blockwise(grad, b.T) if wants_a else None, a.T @ grad if wants_b else None


def _blockwise(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    # Full tiles only: at the edges of a matrix BLAS takes other kernels, so with an inner
    # dimension of 5, say, even the place of a row within its block changes bits.
    inner, width = _full(a.shape[1]), _full(b.shape[1])
    # The transpose of a contiguous array, and fresh copies: one layout, one alignment.
    right = b.new_zeros((width, inner))
    right[: b.shape[1], : b.shape[0]] = b.T
    result = a.new_empty((len(a), b.shape[1]))
    for start in range(0, len(a), MM_ROWS):
        rows = a[start : start + MM_ROWS]
        left = a.new_zeros((MM_ROWS, inner))
        left[: len(rows), : a.shape[1]] = rows
        result[start : start + MM_ROWS] = (left @ right.T)[: len(rows), : b.shape[1]]
    return result


def _full(size: int) -> int:
    return -(-size // MM_TILE) * MM_TILE
