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

import torch

__all__ = [
    "MM_INNER",
    "MM_ROWS",
    "bag_sum",
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
"""Rows of each matrix product of `padded_mm`; its width is filled up to a multiple of this."""

MM_INNER = 16
"""The inner dimension is filled up with zeros to a multiple of this."""


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


def bag_sum(values: torch.Tensor, index: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Sums of the rows that each owner chooses, added in the order in which they are named.

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
    from fedrec.compute.padded import product

    return product(a, b)
