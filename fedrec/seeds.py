"""Randomness as a pure function of (seed, purpose, round, owner, draw).

There is no generator to carry about: a draw is a hash of where it is used. So a client draws the
same numbers wherever and whenever it is computed, alone or in a crowd, before or after a restart.
The hash is Philox4x32-10, vectorised; `words` draws faster where many numbers belong to one owner.

Reference: salmon2011philox.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from fedrec.ragged import offsets_of
from fedrec.types import FloatArray, IntArray

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""Step and factors of SplitMix64."""

_AT_ONCE = 2**14
"""Words that are hashed together, few enough to stay in the cache."""

_M0 = np.uint64(0xD2511F53)
_M1 = np.uint64(0xCD9E8D57)
_W0 = 0x9E3779B9
_W1 = 0xBB67AE85
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


class Purpose(IntEnum):
    """What a draw is for. Numbers are part of every result: append, never renumber."""

    INIT_GLOBAL = 1
    INIT_LOCAL = 2
    COHORT = 3
    NEGATIVES = 4
    BATCHES = 5
    HISTORY = 6
    LEGACY_CANDIDATES = 7
    BASELINE = 8
    EXTRA_ROWS = 9
    HISTORY_ORDER = 10
    SKETCH = 11
    DROPOUT = 12
    PLUGIN = 13
    TARGETS = 14


def philox(words: list[NDArray[np.uint64]], k0: int, k1: int) -> list[NDArray[np.uint64]]:
    """Return the four words of Philox4x32 after ten rounds.

    Args:
        words: The counter, four words of 32 bits in 64, each [n]; they are overwritten.
        k0: The low word of the key.
        k1: The high word of the key.
    """
    c0, c1, c2, c3 = words
    p0, p1 = np.empty_like(c0), np.empty_like(c0)
    for _ in range(10):
        np.multiply(c0, _M0, out=p0)
        np.multiply(c2, _M1, out=p1)
        np.right_shift(p1, _32, out=c0)
        c0 ^= c1
        c0 ^= np.uint64(k0)
        np.right_shift(p0, _32, out=c2)
        c2 ^= c3
        c2 ^= np.uint64(k1)
        np.bitwise_and(p1, _LOW, out=c1)
        np.bitwise_and(p0, _LOW, out=c3)
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


def _blocks(
    seed: int, purpose: Purpose, round: int, owner: IntArray, block: IntArray
) -> list[NDArray[np.uint64]]:
    """Return the four words of one Philox block per (owner, block), each [n]."""
    owner, block = np.broadcast_arrays(owner, block)
    owners = owner.astype(np.uint64)
    words: list[NDArray[np.uint64]] = [
        block.astype(np.uint64) & _LOW,
        owners & _LOW,
        np.full(owner.shape, round & 0xFFFFFFFF, np.uint64),
        ((owners >> _32) & np.uint64(0xFFFFFF)) | np.uint64(int(purpose) << 24),
    ]
    return philox(words, seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)


def bits(
    seed: int, purpose: Purpose, round: int, owner: IntArray, draw: IntArray
) -> NDArray[np.uint64]:
    """Return 64 hashed bits per draw, uint64 [n].

    Args:
        seed: of the run.
        purpose: what the draw is for.
        round: the round, 0 before the first.
        owner: int64 [n], whose draw it is: a user, an item, a client.
        draw: int64 [n], which of the owner's draws.
    """
    high, low, _, _ = _blocks(seed, purpose, round, owner, draw)
    return np.asarray((high << _32) | low)


def uniform(seed: int, purpose: Purpose, round: int, owner: IntArray, draw: IntArray) -> FloatArray:
    """float64 [n] in (0, 1); arguments as for `bits`."""
    high = bits(seed, purpose, round, owner, draw) >> np.uint64(11)
    return np.asarray((high.astype(np.float64) + 0.5) * 2.0**-53)


def normal(
    seed: int, purpose: Purpose, owner: IntArray, shape: tuple[int, ...], salt: int = 0
) -> FloatArray:
    """Draw standard normal values for each owner, by Box and Muller.

    Args:
        seed: of the run.
        purpose: what the draw is for.
        owner: int64 [n].
        shape: of one owner's values.
        salt: tells several parameters of one owner apart (takes the place of the round).

    Returns:
        float32 [n, *shape].
    """
    size = int(np.prod(shape, dtype=np.int64))
    pairs = (size + 1) // 2
    draws = np.arange(pairs, dtype=np.int64)
    words = _blocks(seed, purpose, salt, owner[:, None], draws[None, :])
    first, second = (
        ((high << np.uint64(21)) | (low >> np.uint64(11))).astype(np.float64)
        for high, low in (words[:2], words[2:])
    )
    radius = np.sqrt(-2.0 * np.log((first + 0.5) * 2.0**-53))
    angle = 2.0 * np.pi * (second + 0.5) * 2.0**-53
    values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    flat = values.reshape(len(owner), 2 * pairs)[:, :size].astype(np.float32)
    return np.asarray(flat.reshape(len(owner), *shape))


def mix(states: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return uint64 [n], the output of SplitMix64 for each state that it has stepped to.

    Reference: steele2014fast.
    """
    z = states ^ (states >> np.uint64(30))
    z *= np.uint64(FIRST)
    z ^= z >> np.uint64(27)
    z *= np.uint64(SECOND)
    z ^= z >> np.uint64(31)
    return z


def words(keys: NDArray[np.uint64], counts: IntArray) -> NDArray[np.uint64]:
    """Return the first outputs of SplitMix64 from some states, uint64 [sum of counts].

    Args:
        keys: uint64 [c], the states.
        counts: int64 [c], how many of each; they stand one after the other.
    """
    ends = offsets_of(counts)
    drawn = np.repeat(keys - ends[:-1].astype(np.uint64) * np.uint64(GOLDEN), counts)
    for start in range(0, len(drawn), _AT_ONCE):
        some = drawn[start : start + _AT_ONCE]
        some += np.arange(start + 1, start + 1 + len(some), dtype=np.uint64) * np.uint64(GOLDEN)
        some[:] = mix(some)
    return drawn
