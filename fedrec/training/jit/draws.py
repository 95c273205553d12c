"""Random draws: those of `fedrec.seeds` and `fedrec.data.negatives`, to the bit."""

from __future__ import annotations

import numpy as np

from fedrec.training.jit.compiler import compiled

__all__ = ["draw_uniform"]

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


@compiled
def _philox(c0, c1, c2, c3, k0, k1):
    """First 64 of the 128 bits of Philox4x32-10 (salmon2011philox)."""
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return (c0 << _32) | c1


@compiled
def draw_uniform(
    seed, purpose, round, users, offsets, excluded_offsets, excluded, n_items, k, epochs
):
    """Uniform negatives: int32 [epochs, positives, k]; see `fedrec.data.negatives`.

    Args:
        seed: of the run.
        purpose: number of the purpose.
        round: the round.
        users: int64 [u], the user of each row.
        offsets: int64 [u + 1], the positives of each row.
        excluded_offsets: int64 [u + 1].
        excluded: int64 [m], sorted within a row.
        n_items: size of the catalogue.
        k: negatives per positive.
        epochs: local epochs.
    """
    drawn = np.empty((epochs, offsets[-1], k), np.int32)
    k0, k1 = np.uint64(seed & 0xFFFFFFFF), np.uint64((seed >> 32) & 0xFFFFFFFF)
    for row in range(len(users)):
        owner = users[row]
        first, n = offsets[row], offsets[row + 1] - offsets[row]
        low, high = excluded_offsets[row], excluded_offsets[row + 1]
        pool = np.uint64(n_items - (high - low))
        c1, c2 = np.uint64(owner & 0xFFFFFFFF), np.uint64(round & 0xFFFFFFFF)
        c3 = np.uint64((purpose << 24) | ((owner >> 32) & 0xFFFFFF))
        for epoch in range(epochs):
            for within in range(n):
                for j in range(k):
                    block = np.uint64(((epoch * n + within) * k + j) & 0xFFFFFFFF)
                    hashed = _philox(block, c1, c2, c3, k0, k1) >> _32
                    rank = np.int64((hashed * pool) >> _32)
                    # The number of excluded items that stand before the rank-th allowed one.
                    a, b = low, high
                    while a < b:
                        middle = (a + b) // 2
                        if excluded[middle] - (middle - low) <= rank:
                            a = middle + 1
                        else:
                            b = middle
                    drawn[epoch, first + within, j] = rank + (a - low)
    return drawn
