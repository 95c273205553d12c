"""How rows of users and clients lie: flat and ragged, or filled up to rectangles and tiles."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fedrec.compute.operations import MM_ROWS
from fedrec.ragged import Ragged, offsets_of
from fedrec.types import FloatArray, IntArray

Tensors: TypeAlias = Mapping[str, Tensor]
"""Named tensors, one entry per parameter."""


@dataclass(frozen=True, slots=True)
class Histories:
    """What users took, oldest first, one row per user row.

    Args:
        rows: Where the vectors of the items lie, among vectors that come with them.
        items: int64 [nnz], the items.
        times: float64 [nnz], in the data's unit; None where the data has none.
        ratings: float64 [nnz], likewise.
    """

    rows: Ragged
    items: IntArray
    times: FloatArray | None = None
    ratings: FloatArray | None = None

    def take(self, users: IntArray) -> Self:
        """Return the rows of some users, int64 [b]."""
        at = self.rows.positions(users)
        times, ratings = (None if c is None else c[at] for c in (self.times, self.ratings))
        return type(self)(self.rows.take(users), self.items[at], times, ratings)


@dataclass(frozen=True, slots=True)
class PairBatch:
    """The unique (user, item) pairs of a local epoch, or of one step of it.

    Pairs stand user after user, by item; users stand client after client.

    Args:
        users: int64 [q], the user row of each pair.
        items: int64 [q].
        clients: int64 [q], the client row of each pair.
        labels: float32 [q], 1 for a positive, 0 for any other pair.
        offsets: int64 [u + 1], user ``u`` has pairs ``offsets[u]:offsets[u + 1]``.
        index: int64 [q], where each pair stands among the pairs of the whole epoch.
        history: For a model with a window: the latest train items of each user row, oldest first,
            as pairs; empty for a user without pairs.
        context: int64 [q], for such a model: how many of them stand before the pair; for a pair
            that is none of them, as many as the model looks at.
    """

    users: Tensor
    items: Tensor
    clients: Tensor
    labels: Tensor
    offsets: IntArray
    index: Tensor
    history: Histories | None = None
    context: Tensor | None = None


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
        tiled[torch.as_tensor(self.place), : values.shape[1]] = values
        return tiled.view(-1, MM_ROWS, tiled.shape[1])

    def rows(self, tiled: Tensor) -> Tensor:
        """Return the rows of tiles one after the other, float [q, ...]."""
        return tiled.flatten(0, 1)[torch.as_tensor(self.place)]


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
    return torch.as_tensor(rows), torch.as_tensor(place)


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
