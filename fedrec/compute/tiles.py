"""Ragged rows filled up to rectangles: one per owner, or tiles of equal size."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fedrec.compute.operations import MM_ROWS
from fedrec.types import IntArray, Ragged, offsets_of

_BLOCK = 64
"""Tiles of one batched product, so that results stay in the cache."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """How the rows of owners lie in tiles of `MM_ROWS`, filled up with zeros.

    Products of tiles round alike in whatever company.

    Args:
        offsets: int64 [n + 1], the tiles of each owner.
        place: int64 [q], where each row lies among the rows of all tiles.
    """

    offsets: IntArray
    place: IntArray

    @classmethod
    def of(cls, offsets: IntArray) -> Self:
        """Cut the rows of owners; int64 [n + 1] says which rows are whose."""
        lengths = np.diff(offsets)
        tiles = offsets_of(-(-lengths // MM_ROWS))
        shift = tiles[:-1] * MM_ROWS - offsets[:-1]
        return cls(tiles, np.arange(offsets[-1]) + np.repeat(shift, lengths))

    @property
    def owners(self) -> IntArray:
        """Return the owner of each tile, int64 [n_tiles]."""
        return Ragged(self.offsets, self.offsets).owners()

    def fill(self, values: Tensor, width: int | None = None) -> Tensor:
        """Return rows laid out in tiles, float [n_tiles, MM_ROWS, width].

        Args:
            values: float [q, d].
            width: Of the tiles, filled up with zeros; None: d.
        """
        tiled = values.new_zeros((int(self.offsets[-1]) * MM_ROWS, width or values.shape[1]))
        tiled[torch.from_numpy(self.place), : values.shape[1]] = values
        return tiled.view(-1, MM_ROWS, tiled.shape[1])

    def rows(self, tiled: Tensor) -> Tensor:
        """Return the rows of tiles one after the other, float [q, ...]."""
        return tiled.flatten(0, 1)[torch.from_numpy(self.place)]


def blocks_of(n: int) -> Iterator[slice]:
    """Yield slices of n tiles, as many as one batched product takes."""
    for start in range(0, n, _BLOCK):
        yield slice(start, min(start + _BLOCK, n))


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


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return values.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (place,) = ctx.saved_tensors
        return grad.index_select(0, place), None, None
