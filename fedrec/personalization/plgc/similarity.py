"""PLGC's similarity branch: a kernel between the items of pairs and the user's train items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from fedrec.compute.batch import PairBatch
from fedrec.compute.operations import MM_INNER, MM_ROWS
from fedrec.compute.segments import contiguous_sum
from fedrec.compute.tiles import Tiles, blocks_of
from fedrec.personalization.plgc.ranking import power
from fedrec.types import Ragged, offsets_of

__all__ = ["Kernel", "KernelSums"]

Tensor: TypeAlias = "torch.Tensor"


@dataclass(frozen=True, slots=True)
class KernelSums:
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
        self.beta, self.offsets = beta, pairs.offsets
        present = np.diff(pairs.offsets) > 0
        users = np.flatnonzero(present)
        items = history.take(users)
        lengths = np.where(present, history.lengths, 0)
        self.history = Ragged(offsets_of(lengths), items.values)
        self.row_tiles, self.column_tiles = Tiles.of(pairs.offsets), Tiles.of(self.history.offsets)
        width = -(-unit.shape[1] // MM_INNER) * MM_INNER
        self.left = self.row_tiles.fill(unit[pairs.items], width)
        self.right = self.column_tiles.fill(unit[torch.from_numpy(items.values)], width)
        # Every tile of a user's rows meets every tile of its columns.
        n_columns = np.diff(self.column_tiles.offsets)
        owner = self.row_tiles.owners
        meetings = offsets_of(n_columns[owner])
        self.row = np.repeat(np.arange(len(owner)), n_columns[owner])
        within = np.arange(meetings[-1]) - meetings[:-1][self.row]
        self.column = self.column_tiles.offsets[owner[self.row]] + within
        self.zeros, self.zero_tiles = self._same(pairs, meetings)

    def _same(self, pairs: PairBatch, meetings: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Return where an item meets itself: place among the elements of all tiles, and tile."""
        user = self.history.owners()
        stored = Ragged(pairs.offsets, pairs.items.numpy())
        at = stored.find(user, self.history.values)
        column = self.column_tiles.place[at >= 0]
        row = self.row_tiles.place[at[at >= 0]]
        first = self.column_tiles.offsets[user[at >= 0]]
        tile = meetings[row // MM_ROWS] + column // MM_ROWS - first
        order = np.argsort(tile, kind="stable")
        place = (tile * MM_ROWS + row % MM_ROWS) * MM_ROWS + column % MM_ROWS
        return torch.from_numpy(place[order]), tile[order]

    def sums(self, target: Tensor | None) -> KernelSums:
        """Return the sums of all kernels.

        Args:
            target: float [q], what the rows are summed with; None: only the rows are wanted.
        """
        rows = self.left.new_zeros(self.left.shape[:2])
        squares, along = torch.zeros_like(rows), self.right.new_zeros(self.right.shape[:2])
        aims = None if target is None else self.row_tiles.fill(target.unsqueeze(1))
        for part in blocks_of(len(self.row)):
            row = torch.from_numpy(self.row[part])
            column = torch.from_numpy(self.column[part])
            tile = torch.bmm(self.left[row], self.right[column].transpose(1, 2)).clamp_min_(0.0)
            tile = power(tile, self.beta)
            low, high = np.searchsorted(self.zero_tiles, [part.start, part.stop])
            tile.view(-1)[self.zeros[low:high] - part.start * MM_ROWS**2] = 0.0
            rows.index_add_(0, row, tile.sum(2))
            if aims is not None:
                along.index_add_(0, column, (tile * aims[row]).sum(1))
                squares.index_add_(0, row, tile.square_().sum(2))
        n = torch.from_numpy(np.maximum(self.history.lengths, 1))
        users = torch.from_numpy(Ragged(self.offsets, self.offsets).owners())
        sums = self.row_tiles.rows(rows.unsqueeze(2)).squeeze(1)
        of_users = torch.from_numpy(self.offsets)
        of_columns = torch.from_numpy(self.history.offsets)
        columns = self.column_tiles.rows(along.unsqueeze(2)).squeeze(1).double()
        squared = self.row_tiles.rows(squares.unsqueeze(2)).squeeze(1).double()
        return KernelSums(
            sums * (n.double() ** -0.5).to(sums.dtype)[users],
            contiguous_sum(columns.square(), of_columns) / n,
            contiguous_sum(squared, of_users) / n,
        )
