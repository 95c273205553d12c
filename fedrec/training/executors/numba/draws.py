"""Random draws: those of `fedrec.seeds`, `fedrec.data.negatives` and the batches, to the bit."""

from __future__ import annotations

import numpy as np

from fedrec.compute.numba_compiler import compiled, inlined
from fedrec.seeds import Purpose

__all__ = ["draw_extras", "draw_negatives", "keep_some", "shuffle"]

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_NEGATIVES, _BATCHES = int(Purpose.NEGATIVES), int(Purpose.BATCHES)
_HISTORY, _EXTRA = int(Purpose.HISTORY), int(Purpose.EXTRA_ROWS)


@inlined
def _turn(c0, c1, c2, c3, k0, k1):
    """One of the ten rounds of Philox4x32 (salmon2011philox)."""
    p0, p1 = _M0 * c0, _M1 * c2
    return (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW


@inlined
def _next(k0, k1):
    """The key of the round after."""
    return (k0 + _W0) & _LOW, (k1 + _W1) & _LOW


@inlined
def _philox(c0, c1, c2, c3, k0, k1):
    """First two of the four words of Philox4x32-10.

    Written out, because a loop around it is computed for several draws at a time only if there is
    no loop in it.
    """
    c0, c1, c2, c3 = _turn(c0, c1, c2, c3, k0, k1)
    k0, k1 = _next(k0, k1)
    c0, c1, c2, c3 = _turn(c0, c1, c2, c3, k0, k1)
    k0, k1 = _next(k0, k1)
    c0, c1, c2, c3 = _turn(c0, c1, c2, c3, k0, k1)
    k0, k1 = _next(k0, k1)
    c0, c1, c2, c3 = _turn(c0, c1, c2, c3, k0, k1)
    k0, k1 = _next(k0, k1)
    c0, c1, c2, c3 = _turn(c0, c1, c2, c3, k0, k1)
    k0, k1 = _next(k0, k1)
    c0, c1, c2, c3 = _turn(c0, c1, c2, c3, k0, k1)
    k0, k1 = _next(k0, k1)
    c0, c1, c2, c3 = _turn(c0, c1, c2, c3, k0, k1)
    k0, k1 = _next(k0, k1)
    c0, c1, c2, c3 = _turn(c0, c1, c2, c3, k0, k1)
    k0, k1 = _next(k0, k1)
    c0, c1, c2, c3 = _turn(c0, c1, c2, c3, k0, k1)
    k0, k1 = _next(k0, k1)
    c0, c1, c2, c3 = _turn(c0, c1, c2, c3, k0, k1)
    return c0, c1


@compiled
def _counter(seed, purpose, round, owner):
    """What is the same for all draws of an owner."""
    return (
        np.uint64(owner & 0xFFFFFFFF),
        np.uint64(round & 0xFFFFFFFF),
        np.uint64((purpose << 24) | ((owner >> 32) & 0xFFFFFF)),
        np.uint64(seed & 0xFFFFFFFF),
        np.uint64((seed >> 32) & 0xFFFFFFFF),
    )


@compiled
def _ranks(seed, purpose, round, owner, first, pool, drawn):
    """drawn[i] = the top 32 bits of draw first + i, times pool, shifted right by 32."""
    c1, c2, c3, k0, k1 = _counter(seed, purpose, round, owner)
    block, size = np.uint64(first), np.uint64(pool)
    for i in range(len(drawn)):
        top, _ = _philox((block + np.uint64(i)) & _LOW, c1, c2, c3, k0, k1)
        drawn[i] = np.int32((top * size) >> _32)


@compiled
def draw_negatives(seed, round, owner, epoch, excluded, n_items, shift, drawn):
    """Uniform negatives of a user in a local epoch.

    Args:
        seed: of the run.
        round: the round.
        owner: id of the user.
        epoch: the local epoch.
        excluded: int64 [m], sorted.
        n_items: size of the catalogue.
        shift: int32 [n_items], scratch.
        drawn: int32 [n * k], filled.
    """
    m = len(excluded)
    _ranks(seed, _NEGATIVES, round, owner, epoch * len(drawn), n_items - m, drawn)
    if m == 0:
        return
    # The r-th allowed item stands behind as many excluded ones j as have excluded[j] - j <= r.
    if n_items <= 32 * len(drawn):
        start = 0
        for j in range(m):
            end = excluded[j] - j
            for r in range(start, end):
                shift[r] = j
            start = end
        for r in range(start, n_items - m):
            shift[r] = m
        for i in range(len(drawn)):
            drawn[i] += shift[drawn[i]]
        return
    for j in range(m):
        shift[j] = excluded[j] - j
    for i in range(len(drawn)):
        rank, base, left = drawn[i], 0, m
        while left > 1:
            half = left >> 1
            base += half * (shift[base + half - 1] <= rank)
            left -= half
        drawn[i] = rank + base + (shift[base] <= rank)


@compiled
def draw_extras(seed, round, owner, epoch, n_items, drawn):
    """Random items of a user in a local epoch, int32 [e], filled."""
    _ranks(seed, _EXTRA, round, owner, epoch * len(drawn), n_items, drawn)


@compiled
def shuffle(seed, round, epoch, users, offsets, order):
    """The positives of a client in the order of their hash, int64 [p], filled.

    Args:
        seed: of the run.
        round: the round.
        epoch: the local epoch.
        users: int64 [u], ids of the client's users.
        offsets: int64 [u + 1], their positives.
        order: places among the client's positives.
    """
    keys = np.empty(len(order), np.uint64)
    at = 0
    for u in range(len(users)):
        n = offsets[u + 1] - offsets[u]
        c1, c2, c3, k0, k1 = _counter(seed, _BATCHES, round, users[u])
        for i in range(n):
            a, b = _philox(np.uint64((epoch * n + i) & 0xFFFFFFFF), c1, c2, c3, k0, k1)
            keys[at] = (a << _32) | b
            at += 1
    order[:] = np.argsort(keys, kind="mergesort")


@compiled
def keep_some(seed, owner, items, cap, kept):
    """The places of the items with the smallest hashes, in order; int32 [cap], filled.

    Args:
        seed: of the run.
        owner: id of the user.
        items: int64 [n].
        cap: how many, at most n.
        kept: filled.
    """
    c1, c2, c3, k0, k1 = _counter(seed, _HISTORY, 0, owner)
    keys = np.empty(len(items), np.uint64)
    for i in range(len(items)):
        a, b = _philox(np.uint64(items[i] & 0xFFFFFFFF), c1, c2, c3, k0, k1)
        keys[i] = (a << _32) | b
    last = np.sort(keys)[cap - 1]
    spare = cap
    for i in range(len(items)):
        spare -= keys[i] < last
    used = 0
    for i in range(len(items)):
        equal = keys[i] == last and spare > 0
        if keys[i] < last or equal:
            spare -= equal
            kept[used] = i
            used += 1
