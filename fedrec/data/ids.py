"""Raw ids: their table in a fixed order, and a hash of each that never changes.

A raw id is text without white space at its ends, as it is written: ``007``, ``7``, ``+7`` and
``7e0`` are four ids. Only a column in which every id is a whole number, some with a point and
zeros (``7.0``), is read as whole numbers: that is how a column of floats is written. This holds
for text files, Parquet files and data frames alike; a float is taken as it would be written.

Everything that must not depend on the order of a file (indices, ties in time, random shares,
groups of users) is built on these two.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedrec import seeds
from fedrec.ragged import offsets_of
from fedrec.types import IntArray, TextArray

HashArray = NDArray[np.uint64]

WHOLE = re.compile(r"-?\d+", re.ASCII)

_GOLDEN = np.uint64(seeds.GOLDEN)


def mix(values: HashArray) -> HashArray:
    """Return uint64 [n], one output of SplitMix64 for each state (Steele, Lea and Flood 2014)."""
    return seeds.mix(values + _GOLDEN)


def mix_seed(seed: int, *columns: HashArray) -> HashArray:
    """Return uint64 [n], a hash of (seed, row) for each row of some columns of hashes.

    Each column is uint64 [n]; their order matters.
    """
    state = mix(np.full_like(columns[0], np.uint64(seed % 2**64)))
    for column in columns:
        state = mix(state ^ column)
    return state


def hash_ids(ids: TextArray) -> HashArray:
    """Return uint64 [n], hashes of raw ids by their characters alone, the same on any machine."""
    texts = ids.tolist()
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    starts = offsets_of(lengths)[:-1]
    characters = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<u4")
    state = np.zeros(len(texts), np.uint64)
    for place in range(lengths.max(initial=0)):
        longer = np.flatnonzero(lengths > place)
        state[longer] = mix(state[longer] ^ characters[starts[longer] + place].astype(np.uint64))
    return state


def index_ids(codes: IntArray, ids: Sequence[str]) -> tuple[IntArray, TextArray]:
    """Sort the raw ids that rows name.

    They are sorted as numbers where all are whole numbers (``7`` before ``007`` before ``10``),
    and as text otherwise.

    Args:
        codes: int64 [n], index into ``ids``.
        ids: The same text may stand in several places.

    Returns:
        int64 [n], the index of each row's id in the sorted table, and that table, text [k].
    """
    used = np.unique(codes)
    texts = {ids[at] for at in used.tolist()}
    if all(map(WHOLE.fullmatch, texts)):
        table = sorted(texts, key=lambda text: (int(text), len(text), text))
    else:
        table = sorted(texts)
    indices = {text: index for index, text in enumerate(table)}
    place = np.zeros(len(ids), np.int64)
    place[used] = [indices[ids[at]] for at in used.tolist()]
    return place[codes], np.array(table, object)
