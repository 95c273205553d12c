"""The product behind `fedrec.compute.operations.padded_mm`, with its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fedrec.compute.operations import MM_INNER, MM_ROWS

__all__ = ["PaddedRows", "product"]

_CACHED_TILES = 16
"""Tiles whose product is finished while it is in the cache of the core."""


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the product; see `fedrec.compute.operations.padded_mm`."""
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
        self._result: torch.Tensor | None = None

    def mm(self, columns: torch.Tensor) -> torch.Tensor:
        """Return the product with a matrix.

        Args:
            columns: float [d, m].

        Returns:
            float [n, m].
        """
        result = self._tiles.new_empty((*self._tiles.shape[:2], _full(columns.shape[1], MM_ROWS)))
        torch.bmm(self._tiles, self._laid_out(columns), out=result)
        return self._cut(result, columns)

    def mapped(
        self, columns: torch.Tensor, function: Callable[[torch.Tensor], object]
    ) -> torch.Tensor:
        """Return the product with a matrix after a function has changed each element in place.

        Args:
            columns: float [d, m].
            function: is given some of the products at a time.

        Returns:
            float [n, m], valid until the next call with as many columns.
        """
        shape = (*self._tiles.shape[:2], _full(columns.shape[1], MM_ROWS))
        if self._result is None or self._result.shape != shape:
            self._result = self._tiles.new_empty(shape)
        right = self._laid_out(columns)
        for start in range(0, len(self._tiles), _CACHED_TILES):
            part = slice(start, start + _CACHED_TILES)
            left, out = self._tiles[part], self._result[part]
            torch.bmm(left, right[: len(left)], out=out)
            function(out)
        return self._cut(self._result, columns)

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
