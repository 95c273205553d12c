"""What a client sends in each place of its payload, for many clients at once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from fedrec.aggregation.positions import (
    Bytes,
    bitmap_bytes,
    gap_bytes,
    number_bytes,
    write_bitmaps,
    write_gaps,
    write_numbers,
)
from fedrec.aggregation.update import RowBlock, UpdateBatch
from fedrec.ragged import Ragged
from fedrec.types import FloatArray, IntArray

FLAG_BYTES = 1
"""Of a block of rows: how its ids are written, and four times how the positions of its values."""

GAPS, BITMAP, SAME, ALL = 0, 1, 2, 2
"""Ids may be the same as those of another table; positions are not there where all values are."""


@dataclass(frozen=True, slots=True)
class Section:
    """What stands in one place of the payloads: its bytes per client, int64 [c], and their content.

    The content is written on demand: to count bytes, only their number is needed.
    """

    sizes: IntArray
    write: Callable[[], FloatArray]


def base_of(name: str, before: dict[str, RowBlock]) -> RowBlock | None:
    """Return the table whose ids those of a table may be."""
    last = before[next(reversed(before))] if before else None
    return before.get(name.rpartition("/")[0], last)


def sections_of(batch: UpdateBatch) -> Iterator[Section]:
    """Yield what stands in the payloads behind the version, place after place."""
    n, before = len(batch.client_ids), dict[str, RowBlock]()
    for name, block in batch.tables.items():
        yield from _rows(block, True, base_of(name, before))
        before[name] = block
    for value in batch.dense.values():
        sizes = np.full(n, prod(value.shape[1:]) * value.dtype.itemsize, np.int64)
        yield Section(sizes, partial(little_endian, value))
    for block in batch.coded.values():
        yield from _rows(block, False, None)


def _rows(block: RowBlock, has_ids: bool, base: RowBlock | None) -> Iterator[Section]:
    """Yield the flag, the ids, the scales and the values of a block."""
    sets, counts = Ragged(block.offsets, block.ids), np.diff(block.offsets)
    of_ids, ids = np.zeros(len(counts), np.int64), list[Section]()
    if has_ids:
        is_same = np.zeros(len(counts), bool) if base is None else _have_ids_of(base, sets)
        of_ids, ids = _set_sections(sets, is_same, SAME)
    of_values, values = _value_sections(block)
    flags = of_ids + 4 * of_values
    yield Section(np.full(len(counts), FLAG_BYTES), lambda: flags.astype(np.uint8))
    yield from ids
    if block.scale is not None:
        yield Section(counts * block.scale.itemsize, partial(little_endian, block.scale))
    yield from values


def _value_sections(block: RowBlock) -> tuple[IntArray, list[Section]]:
    """Return how each client's values are written, int64 [c], and where."""
    counts, itemsize = np.diff(block.offsets), block.values.itemsize
    width = prod(block.values.shape[1:])
    sizes = counts * (width * itemsize)
    if not block.sparse:
        return np.full(len(counts), ALL), [Section(sizes, partial(little_endian, block.values))]
    flat, first = little_endian(block.values).reshape(-1), block.offsets * width
    sent = np.flatnonzero(flat.view(f"u{itemsize}") != 0)
    offsets = np.searchsorted(sent, first)
    sets = Ragged(offsets, sent - np.repeat(first[:-1], np.diff(offsets)))
    body = np.minimum(gap_bytes(sets), bitmap_bytes(sets))
    of_sent = sets.lengths * itemsize
    all_sent = number_bytes(body) + body + of_sent >= sizes
    flags, positions = _set_sections(sets, all_sent, ALL)
    return flags, [
        *positions,
        Section(of_sent * ~all_sent, lambda: flat[sent[np.repeat(~all_sent, sets.lengths)]]),
        Section(sizes * all_sent, lambda: flat[np.repeat(all_sent, counts * width)]),
    ]


def _set_sections(
    sets: Ragged, left_out: NDArray[np.bool_], flag: int
) -> tuple[IntArray, list[Section]]:
    """Return how each set is written, int64 [c], and where; those left out take the flag."""
    gaps, bitmaps = gap_bytes(sets), bitmap_bytes(sets)
    flags = np.where(left_out, flag, np.where(bitmaps < gaps, BITMAP, GAPS))
    body = np.minimum(gaps, bitmaps)

    def written(as_flag: int, write: Callable[[Ragged], Bytes]) -> Section:
        chosen = flags == as_flag
        return Section(body * chosen, lambda: write(sets.take(np.flatnonzero(chosen))))

    header = Section(number_bytes(body) * ~left_out, lambda: write_numbers(body[~left_out]))
    return flags, [header, written(GAPS, write_gaps), written(BITMAP, write_bitmaps)]


def _have_ids_of(base: RowBlock, sets: Ragged) -> NDArray[np.bool_]:
    """Return which clients have the ids of another block, bool [c]."""
    if base.ids is sets.values and base.offsets is sets.offsets:
        return np.ones(len(sets), bool)
    same = np.asarray(np.diff(base.offsets) == sets.lengths)
    rows = np.flatnonzero(same)
    ours, theirs = sets.take(rows), Ragged(base.offsets, base.ids).take(rows)
    differing = np.flatnonzero(ours.values != theirs.values)
    same[rows[np.searchsorted(ours.offsets, differing, side="right") - 1]] = False
    return same


def little_endian(values: FloatArray) -> FloatArray:
    """Return values in one piece, the lowest byte of each first."""
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
