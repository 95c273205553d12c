"""The product behind `fedrec.compute.operations.padded_mm`, with its gradient."""

from __future__ import annotations

from typing import Any

import torch

from fedrec.compute.operations import MM_INNER, MM_ROWS

__all__ = ["product"]


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """See `fedrec.compute.operations.padded_mm`."""
    found: torch.Tensor = _PaddedMM.apply(a, b)  # type: ignore[no-untyped-call]
    return found


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
    inner, width = _full(a.shape[1], MM_INNER), _full(b.shape[1], MM_ROWS)
    # The transpose of a contiguous array, and fresh copies: one layout, one alignment.
    right = b.new_zeros((width, inner))
    right[: b.shape[1], : b.shape[0]] = b.T
    tiles = -(-len(a) // MM_ROWS)
    left = a.new_zeros((tiles * MM_ROWS, inner))
    left[: len(a), : a.shape[1]] = a
    result = a.new_empty((tiles * MM_ROWS, width))
    torch.bmm(
        left.view(tiles, MM_ROWS, inner),
        right.T.expand(tiles, inner, width),
        out=result.view(tiles, MM_ROWS, width),
    )
    # A view: to cut the edges off by copying costs as much as the product.
    return result[: len(a), : b.shape[1]]


def _full(size: int, tile: int) -> int:
    return -(-size // tile) * tile
