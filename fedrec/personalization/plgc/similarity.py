"""PLGC's similarity branch: a kernel between items and the user's train items."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedrec.compute.batch import PairBatch, Tiles, blocks_of
from fedrec.compute.device import to_array
from fedrec.compute.operations import MM_INNER, MM_ROWS, PaddedRows, bag_sum, contiguous_sum
from fedrec.personalization.base import FrozenItems
from fedrec.ragged import Ragged, offsets_of
from fedrec.types import IntArray

COLUMNS = 128
"""Items of the catalogue whose similarities are held at once."""

_PART = 32
"""Items that are summed at once: rows of so many similarities stay in the cache."""


def _power(cosine: Tensor, exponent: int) -> Tensor:
    """Raise what is positive in place, by products, which round alike in every place of an array.

    Args:
        cosine: float [...], changed; what is negative becomes 0.
        exponent: 1 or more.
    """
    cosine.clamp_min_(0.0)
    factor = cosine.clone() if exponent > 2 else cosine
    for _ in range(exponent - 1):
        cosine.mul_(factor)
    return cosine


class KernelSums(NamedTuple):
    """What is needed of the kernels of some users.

    Args:
        rows: float [q], the sum of each pair's row.
        along: float64 [u], the squared length of each user's columns, summed with a target.
        squares: float64 [u], the sum of squares.
    """

    rows: Tensor
    along: Tensor
    squares: Tensor


class Kernel:
    r"""Per user, :math:`n^{-1/2} \max(0, z_i \cdot z_j)^\beta` for its pairs i and items j.

    It is 0 between an item and itself. It is computed tile by tile and never held.

    Args:
        unit: float [n_items, d], vectors of length 1, or of zeros.
        history: One row per user row: its items j.
        pairs: The pairs.
        beta: The exponent.
    """

    def __init__(self, unit: Tensor, history: Ragged, pairs: PairBatch, beta: int) -> None:
        self._beta, self._offsets = beta, pairs.offsets
        is_present = np.diff(pairs.offsets) > 0
        items = history.take(np.flatnonzero(is_present)).values
        self._history = Ragged(offsets_of(np.where(is_present, history.lengths, 0)), items)
        self._rows, self._columns = Tiles.of(pairs.offsets), Tiles.of(self._history.offsets)
        width = -(-unit.shape[1] // MM_INNER) * MM_INNER
        self._left = self._rows.fill(unit[pairs.items], width)
        self._right = self._columns.fill(unit[torch.as_tensor(items)], width)
        # Every tile of a user's rows meets every tile of its columns.
        owner = self._rows.owners
        meetings = offsets_of(np.diff(self._columns.offsets)[owner])
        self._row = np.repeat(np.arange(len(owner)), np.diff(meetings))
        within = np.arange(meetings[-1]) - meetings[:-1][self._row]
        self._column = self._columns.offsets[owner[self._row]] + within
        self._zeros, self._zero_tiles = self._same(pairs, meetings)

    def _same(self, pairs: PairBatch, meetings: IntArray) -> tuple[Tensor, IntArray]:
        """Return where an item meets itself: place among the elements of all tiles, and tile."""
        user = self._history.owners()
        at = Ragged(pairs.offsets, to_array(pairs.items)).find(user, self._history.values)
        column = self._columns.place[at >= 0]
        row = self._rows.place[at[at >= 0]]
        first = self._columns.offsets[user[at >= 0]]
        tile = meetings[row // MM_ROWS] + column // MM_ROWS - first
        by_tile = np.argsort(tile, kind="stable")
        place = (tile * MM_ROWS + row % MM_ROWS) * MM_ROWS + column % MM_ROWS
        return torch.as_tensor(place[by_tile]), tile[by_tile]

    def sums(self, target: Tensor | None) -> KernelSums:
        """Return the sums of all kernels.

        Args:
            target: float [q], what the rows are summed with; None: only the rows are wanted.
        """
        rows = self._left.new_zeros(self._left.shape[:2])
        squares, along = torch.zeros_like(rows), self._right.new_zeros(self._right.shape[:2])
        aims = None if target is None else self._rows.fill(target.unsqueeze(1))
        for block in blocks_of(len(self._row)):
            row = torch.as_tensor(self._row[block])
            column = torch.as_tensor(self._column[block])
            tile = torch.bmm(self._left[row], self._right[column].transpose(1, 2))
            tile = _power(tile, self._beta)
            low, high = np.searchsorted(self._zero_tiles, [block.start, block.stop])
            tile.view(-1)[self._zeros[low:high] - block.start * MM_ROWS**2] = 0.0
            rows.index_add_(0, row, tile.sum(2))
            if aims is not None:
                along.index_add_(0, column, (tile * aims[row]).sum(1))
                squares.index_add_(0, row, tile.square_().sum(2))
        n = torch.as_tensor(np.maximum(self._history.lengths, 1))
        users = torch.as_tensor(Ragged(self._offsets, self._offsets).owners())
        sums = self._rows.rows(rows.unsqueeze(2)).squeeze(1)
        squared = self._rows.rows(squares.unsqueeze(2)).squeeze(1).double()
        lengths = self._columns.rows(along.unsqueeze(2)).squeeze(1).double().square()
        return KernelSums(
            sums * (n.double() ** -0.5).to(sums.dtype)[users],
            contiguous_sum(lengths, torch.as_tensor(self._history.offsets)) / n,
            contiguous_sum(squared, torch.as_tensor(self._offsets)) / n,
        )


class CatalogueSimilarity:
    """The similarity branch of some users for the catalogue.

    The similarity of two items is the same for all users, so it is computed once for the items
    that occur in some history and `COLUMNS` items of the catalogue; every user adds up the rows
    of its own history. Holds float [items in histories, `COLUMNS`].

    Args:
        frozen_items: the frozen table and the histories.
        users: int64 [g], the user rows.
        beta: exponent of the similarity.

    Attributes:
        scale: float [g], what the sums of each user are multiplied with.
    """

    def __init__(self, frozen_items: FrozenItems, users: IntArray, beta: int) -> None:
        assert frozen_items.unit_item_vectors is not None
        self._unit, self._beta = frozen_items.unit_item_vectors, beta
        histories = frozen_items.history.take(users)
        occurs = np.zeros(len(self._unit), np.bool_)
        occurs[histories.values] = True
        row_of_item = np.where(occurs, np.cumsum(occurs) - 1, -1)
        self._row_of_item = torch.as_tensor(row_of_item)
        self._rows = PaddedRows(self._unit[torch.as_tensor(np.flatnonzero(occurs))])
        # One table holds the parts one after the other, and each history names its rows in all.
        # Half as many bytes as int64: the index is read once for every `COLUMNS` items.
        n_rows, parts = int(np.count_nonzero(occurs)), np.arange(COLUMNS // _PART)[:, None]
        index = (n_rows * parts + row_of_item[histories.values]).astype(np.int32)
        offsets = (len(histories.values) * parts + histories.offsets[:-1]).astype(np.int32)
        self._index = torch.as_tensor(index.reshape(-1))
        self._offsets = torch.as_tensor(np.append(offsets, np.int32(index.size)))
        self._similarities = self._unit.new_empty((COLUMNS // _PART, n_rows, _PART))
        self.scale = torch.as_tensor(np.maximum(histories.lengths, 1) ** -0.5).to(self._unit.dtype)
        self._items, self._sums = torch.arange(0), self._unit.new_empty(0)

    def sums(self, items: Tensor) -> Tensor:
        """Return the sums of similarities of all users.

        Args:
            items: int64 [c].

        Returns:
            float [p, g, 32]: of 32 items at a time, 0 for what is beyond ``items``.
        """
        if not torch.equal(self._items, items):
            strips = [self._strip(columns) for columns in torch.split(items, COLUMNS)]
            self._items, self._sums = items, strips[0] if len(strips) == 1 else torch.cat(strips)
        return self._sums

    def _strip(self, items: Tensor) -> Tensor:
        """Return the sums for at most `COLUMNS` items, float [4, g, 32]."""
        columns = self._unit.new_zeros((COLUMNS, self._unit.shape[1]))
        columns[: len(items)] = self._unit[items]
        start = 0
        for cosines in self._rows.products(columns.T):
            powers = _power(cosines, self._beta).view(len(cosines), -1, _PART).transpose(0, 1)
            self._similarities[:, start : start + len(cosines)] = powers
            start += len(cosines)
        rows = self._row_of_item[items]
        column = torch.nonzero(rows >= 0).squeeze(1)
        self._similarities[column // _PART, rows[column], column % _PART] = 0.0
        sums = bag_sum(self._similarities.flatten(0, 1), self._index, self._offsets)
        return sums.view(len(self._similarities), len(self.scale), _PART)
