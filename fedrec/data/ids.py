"""Raw ids: their table in a fixed order, and a hash of each that never changes.

Everything that must not depend on the order of a file (indices, ties in time, random shares,
groups of users) is built on these two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.types import IntArray

__all__ = ["HashArray", "hash_ids", "index_ids", "mix", "mix_seed"]

HashArray = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def mix(values: HashArray) -> HashArray:
    """One output of SplitMix64 for each state (Steele, Lea and Flood 2014).

    Args:
        values: uint64 [n], the states.

    Returns:
        uint64 [n], a bijection of the states that looks random.
    """
    z = values + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return np.asarray(z ^ (z >> np.uint64(31)))


def mix_seed(seed: int, *columns: HashArray) -> HashArray:
    """A hash of (seed, row) for each row of some columns of hashes.

    Args:
        seed: any number from 0.
        columns: each uint64 [n]; at least one. Their order matters.

    Returns:
        uint64 [n].
    """
    state = mix(np.full_like(columns[0], np.uint64(seed % 2**64)))
    for column in columns:
        state = mix(state ^ column)
    return state


def hash_ids(ids: NDArray[np.str_]) -> HashArray:
    """A hash of each raw id, from its characters alone.

    Args:
        ids: str [n].

    Returns:
        uint64 [n]; the same id has the same hash in any table, on any machine.
    """
    width = ids.dtype.itemsize // 4
    state = np.zeros(len(ids), np.uint64)
    characters = np.ascontiguousarray(ids).astype(f"<U{width}").view("<u4").reshape(len(ids), width)
    for column in characters.T:
        state = np.where(column > 0, mix(state ^ column.astype(np.uint64)), state)
    return state


def index_ids(values: NDArray[Any]) -> tuple[IntArray, NDArray[np.str_]]:
    """Indices into a sorted table of raw ids.

    The table is sorted as numbers where all ids are whole numbers (``7`` before ``007`` before
    ``10``), and as text otherwise.

    Args:
        values: [n], whole numbers or str.

    Returns:
        int64 [n], the index of each value, and str [m], the table.
    """
    unique, inverse = np.unique(values, return_inverse=True)
    indices = np.asarray(inverse.reshape(-1), np.int64)
    if unique.dtype.kind in "iu":
        return indices, unique.astype(np.str_)
    ids = unique.astype(np.str_)
    numbers = _whole_numbers(ids)
    if numbers is None:
        return indices, ids
    order = np.lexsort((ids, np.char.str_len(ids), numbers))
    place = np.empty(len(ids), np.int64)
    place[order] = np.arange(len(ids), dtype=np.int64)
    return place[indices], ids[order]


def _whole_numbers(ids: NDArray[np.str_]) -> IntArray | None:
    """The ids as int64, or None unless all are whole numbers of at most 18 digits."""
    negative = np.char.startswith(ids, "-")
    digits = np.where(negative, np.char.lstrip(ids, "-"), ids)
    plain = np.char.isdecimal(digits) & (np.char.str_len(digits) <= 18)
    plain &= np.char.str_len(ids) - np.char.str_len(digits) == negative
    return ids.astype(np.int64) if len(ids) and bool(plain.all()) else None
