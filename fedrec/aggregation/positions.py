"""Sorted whole numbers as bytes, many sets at once: the gaps between them, or a bit for each.

Gaps: what each number is above the one before, less 1 (the first: above -1), seven bits to a byte,
the lowest first; the highest bit of a byte says that another follows (LEB128). Bitmap: bit i, the
lowest first, says whether i is in the set; it ends with the byte of the largest. Who knows how many
bytes there are needs to know neither the count nor the largest number.
"""

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import ProtocolError
from fedrec.ragged import IntArray, Ragged, offsets_of

Bytes = NDArray[np.uint8]

MOST_BYTES = 5
"""Of a number: those below 2**35."""


def number_bytes(numbers: IntArray) -> IntArray:
    """Return how many bytes each number takes, int64 [n]."""
    sizes, limit = np.ones(len(numbers), np.int64), 2**7
    while len(numbers) and numbers.max() >= limit:
        sizes += numbers >= limit
        limit *= 2**7
    return sizes


def write_numbers(numbers: IntArray) -> Bytes:
    """Write numbers from 0, one after the other."""
    sizes = number_bytes(numbers)
    if sizes.max(initial=1) == 1:
        return numbers.astype(np.uint8)
    at, left = offsets_of(sizes)[:-1], sizes
    content = np.empty(int(sizes.sum()), np.uint8)
    while len(numbers):
        more = left > 1
        content[at] = (numbers & 127) | (more.astype(np.int64) << 7)
        at, numbers, left = at[more] + 1, numbers[more] >> 7, left[more] - 1
    return content


def gap_bytes(sets: Ragged) -> IntArray:
    """Return how many bytes the gaps of each set take, int64 [c].

    Raises:
        ProtocolError: If a set is not sorted, has a number twice, or one below 0.
    """
    gaps, sizes, limit = _gaps(sets), sets.lengths, 2**7
    while len(wide := np.flatnonzero(gaps >= limit)):
        owners = np.searchsorted(sets.offsets, wide, side="right") - 1
        sizes = sizes + np.bincount(owners, minlength=len(sets))
        limit *= 2**7
    return sizes


def bitmap_bytes(sets: Ragged) -> IntArray:
    """Return how many bytes the bitmap of each set takes, int64 [c]."""
    largest = np.append(sets.values, -1)[sets.offsets[1:] - 1]
    return np.where(sets.lengths > 0, largest // 8 + 1, 0)


def write_gaps(sets: Ragged) -> Bytes:
    """Write the gaps of each set, one set after the other."""
    return write_numbers(_gaps(sets))


def write_bitmaps(sets: Ragged) -> Bytes:
    """Write the bitmap of each set, one set after the other."""
    ends = offsets_of(bitmap_bytes(sets))
    bits = np.zeros(8 * int(ends[-1]), np.uint8)
    bits[np.repeat(8 * ends[:-1], sets.lengths) + sets.values] = 1
    return np.packbits(bits, bitorder="little")


def read_gaps(content: Bytes, sizes: IntArray) -> Ragged:
    """Invert `write_gaps`.

    Args:
        content: uint8, of all sets.
        sizes: int64 [c], how many bytes are of each set.

    Raises:
        ProtocolError: If a set ends within a number, or a number is too large.
    """
    ends, offsets = np.flatnonzero(content < 128), offsets_of(sizes)
    lengths = np.diff(ends, prepend=-1)
    last = offsets[1:][sizes > 0] - 1
    if (content[last] >= 128).any() or lengths.max(initial=1) > MOST_BYTES:
        raise ProtocolError("the payload of a client holds no numbers where they are expected")
    gaps = (content[ends] & 127).astype(np.int64)
    for back in range(1, int(lengths.max(initial=1))):
        wide = np.flatnonzero(lengths > back)
        gaps[wide] = gaps[wide] << 7 | (content[ends[wide] - back] & 127)
    return _set_of(offsets_of(gaps + 1)[1:] - 1, np.searchsorted(ends, offsets))


def read_bitmaps(content: Bytes, sizes: IntArray) -> Ragged:
    """Invert `write_bitmaps`, likewise."""
    bits = np.flatnonzero(np.unpackbits(content, bitorder="little"))
    starts = 8 * offsets_of(sizes)
    offsets = np.searchsorted(bits, starts)
    return Ragged(offsets, bits - np.repeat(starts[:-1], np.diff(offsets)))


def _gaps(sets: Ragged) -> IntArray:
    gaps = np.diff(sets.values, prepend=-1) - 1
    starts = sets.offsets[:-1][sets.lengths > 0]
    gaps[starts] = sets.values[starts]
    if gaps.min(initial=0) < 0:
        raise ProtocolError("the update of a client has rows that are not sorted, or a row twice")
    return gaps


def _set_of(running: IntArray, offsets: IntArray) -> Ragged:
    """Return sets from numbers that run on from set to set."""
    before = np.append(running, -1)[offsets[:-1] - 1]
    return Ragged(offsets, running - np.repeat(before + 1, np.diff(offsets)))
