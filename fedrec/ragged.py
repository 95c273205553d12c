"""Rows of unequal length, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of unequal length, one after the other (CSR without values).

    Args:
        offsets: int64 [n + 1]; row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.
        values: int64 [nnz].
    """

    offsets: IntArray
    values: IntArray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> IntArray:
        """int64 [n], the length of each row."""
        return self.offsets[1:] - self.offsets[:-1]

    def row(self, index: int) -> IntArray:
        """int64 [length], one row (a view)."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def owners(self) -> IntArray:
        """int64 [nnz], the row that each value belongs to."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    def positions(self, rows: IntArray) -> IntArray:
        """int64 [sum of lengths], where the values of some rows lie, row after row."""
        if _consecutive(rows):
            return np.arange(self.offsets[rows[0]], self.offsets[rows[-1] + 1], dtype=np.int64)
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        ends = np.cumsum(lengths)
        within = np.arange(int(ends[-1]) if len(ends) else 0, dtype=np.int64)
        return np.asarray(within + np.repeat(starts - (ends - lengths), lengths))

    def find(self, rows: IntArray, values: IntArray) -> IntArray:
        """Return where values stand in rows, int64 [q], -1 where they do not.

        Args:
            rows: int64 [q], a row each.
            values: int64 [q], not negative. The values of each row are sorted.
        """
        width = 1 + max(int(self.values.max(initial=0)), int(values.max(initial=0)))
        keys, wanted = self.owners() * width + self.values, rows * width + values
        at = np.searchsorted(keys, wanted)
        is_present = np.append(keys, -1)[at] == wanted
        return np.where(is_present, at, -1)

    def where(self, chosen: NDArray[np.bool_]) -> Ragged:
        """Return as many rows with some of their values.

        Args:
            chosen: bool [nnz], which values.
        """
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(chosen, dtype=np.int64)])
        return Ragged(before[self.offsets], self.values[chosen])

    def sorted(self) -> Ragged:
        """Return the rows with their values, not negative, sorted."""
        if self.lengths.max(initial=0) < 2:
            return self
        first = self.owners() * (1 + int(self.values.max()))
        return Ragged(self.offsets, np.sort(first + self.values) - first)

    def take(self, rows: IntArray) -> Ragged:
        """Return the given rows, in the given order; copies."""
        if _consecutive(rows):
            offsets = self.offsets[rows[0] : rows[-1] + 2]
            return Ragged(offsets - offsets[0], self.values[offsets[0] : offsets[-1]].copy())
        offsets = offsets_of(self.offsets[rows + 1] - self.offsets[rows])
        return Ragged(offsets, np.asarray(self.values[self.positions(rows)]))


def empty_rows(n: int) -> Ragged:
    """Return n rows without values."""
    return Ragged(np.zeros(n + 1, np.int64), np.zeros(0, np.int64))


def _consecutive(rows: IntArray) -> bool:
    n = len(rows)
    return n > 0 and rows[-1] - rows[0] == n - 1 and bool((rows[1:] - rows[:-1] == 1).all())


def offsets_of(lengths: IntArray) -> IntArray:
    """int64 [n + 1]: where rows of these lengths begin, and where the last ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
