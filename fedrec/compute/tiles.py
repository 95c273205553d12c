"""Ragged rows cut into tiles of equal size, whose products round alike in whatever company."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from fedrec.compute.operations import MM_ROWS
from fedrec.types import IntArray, Ragged, offsets_of

__all__ = ["Tiles", "blocks_of"]

Tensor: TypeAlias = "torch.Tensor"

_BLOCK = 64
"""Tiles of one batched product, so that results stay in the cache."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """How the rows of owners lie in tiles of `MM_ROWS`, filled up with zeros.

    Args:
        offsets: int64 [n + 1], the tiles of each owner.
        place: int64 [q], where each row lies among the rows of all tiles.
    """

    offsets: IntArray
    place: IntArray

    @classmethod
    def of(cls, offsets: IntArray) -> Tiles:
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
