"""Raw ids: their table in a fixed order, and a hash of each that never changes.

A raw id is text without white space at its ends, as it is written: ``007``, ``7``, ``+7`` and
``7e0`` are four ids. Only a column in which every id is a whole number, some with a point and
zeros (``7.0``), is read as whole numbers: that is how a column of floats is written. This holds
for text files, Parquet files and data frames alike; a float is taken as it would be written.

Everything that must not depend on the order of a file (indices, ties in time, random shares,
groups of users) is built on these two.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from fedrec.types import IntArray

__all__ = ["HashArray", "hash_ids", "index_ids", "mix", "mix_seed"]

HashArray = NDArray[np.uint64]

WHOLE = re.compile(r"-?\d+", re.ASCII)

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
    """Hash raw ids by their characters alone.

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


def index_ids(
    codes: IntArray, ids: NDArray[np.object_] | NDArray[np.str_]
) -> tuple[IntArray, NDArray[np.str_]]:
    """Sort a table of raw ids, and leave out those that no row names.

    It is sorted as numbers where all ids are whole numbers (``7`` before ``007`` before ``10``),
    and as text otherwise.

    Args:
        codes: int64 [n], index into ``ids``.
        ids: text [m], each once.

    Returns:
        int64 [n], the index of each row's id in the sorted table, and that table, str [k].
    """
    used = np.unique(codes)
    table = ids[used].astype(np.str_)
    if all(map(WHOLE.fullmatch, table.tolist())):
        numbers = [(int(each), len(each), each) for each in table.tolist()]
        order = np.array(sorted(range(len(table)), key=numbers.__getitem__), np.int64)
    else:
        order = np.argsort(table)
    place = np.empty(len(ids), np.int64)
    place[used[order]] = np.arange(len(used), dtype=np.int64)
    return place[codes], table[order]
