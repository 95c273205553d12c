"""Random draws, equal to those of `fedrec.training.draws`, and the rows that they touch."""

import numpy as np

from fedrec.compute.numba_compiler import compiled, inlined
from fedrec.seeds import Purpose

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_NEGATIVES, _BATCHES = int(Purpose.NEGATIVES), int(Purpose.BATCHES)
_HISTORY, _ONE = int(Purpose.HISTORY), np.uint64(1)
# The top six bits of this number times 2**i are different for each i.
_SEQUENCE = 0x03F79D71B4CB0A89
_TIMES, _TOP = np.uint64(_SEQUENCE), np.uint64(58)
_PLACE = np.zeros(64, np.int64)
_PLACE[[(_SEQUENCE << i) % 2**64 >> 58 for i in range(64)]] = np.arange(64)


@inlined
def _turn(c0, c1, c2, c3, k0, k1):
    """One of the ten rounds of Philox4x32 (salmon2011philox), and the key of the next."""
    p0, p1 = _M0 * c0, _M1 * c2
    c0, c2 = (p1 >> _32) ^ c1 ^ k0, (p0 >> _32) ^ c3 ^ k1
    return c0, p1 & _LOW, c2, p0 & _LOW, (k0 + _W0) & _LOW, (k1 + _W1) & _LOW


@inlined
def _philox(c0, c1, c2, c3, k0, k1):
    """First two of the four words of Philox4x32-10.

    Written out, because a loop around it is computed for several draws at a time only if there is
    no loop in it.
    """
    c0, c1, c2, c3, k0, k1 = _turn(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _turn(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _turn(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _turn(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _turn(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _turn(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _turn(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _turn(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _turn(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _turn(c0, c1, c2, c3, k0, k1)
    return c0, c1


@compiled
def _counter(seed, purpose, round, owner):
    """Return what is the same for all draws of an owner."""
    return (
        np.uint64(owner & 0xFFFFFFFF),
        np.uint64(round & 0xFFFFFFFF),
        np.uint64((purpose << 24) | ((owner >> 32) & 0xFFFFFF)),
        np.uint64(seed & 0xFFFFFFFF),
        np.uint64((seed >> 32) & 0xFFFFFFFF),
    )


@compiled
def _keys(seed, purpose, round, owner, draws):
    """64 hashed bits of some draws of an owner."""
    c1, c2, c3, k0, k1 = _counter(seed, purpose, round, owner)
    keys = np.empty(len(draws), np.uint64)
    for i in range(len(draws)):
        a, b = _philox(np.uint64(np.int64(draws[i]) & 0xFFFFFFFF), c1, c2, c3, k0, k1)
        keys[i] = (a << _32) | b
    return keys


@compiled
def draw_negatives(seed, round, owner, epoch, excluded, n_drawn, shift, drawn):
    """Draw uniform negatives of a user in a local epoch.

    Args:
        seed: of the run.
        round: the round.
        owner: id of the user.
        epoch: the local epoch.
        excluded: int64 [m], sorted.
        n_drawn: how many items, the first ones, may be drawn.
        shift: int32 [n_drawn], scratch.
        drawn: int32 [n * k], filled.
    """
    m = len(excluded)
    c1, c2, c3, k0, k1 = _counter(seed, _NEGATIVES, round, owner)
    block, pool = np.uint64(epoch * len(drawn)), np.uint64(n_drawn - m)
    for i in range(len(drawn)):
        top, _ = _philox((block + np.uint64(i)) & _LOW, c1, c2, c3, k0, k1)
        drawn[i] = np.int32((top * pool) >> _32)
    if m == 0:
        return
    # The r-th allowed item stands behind as many excluded ones j as have excluded[j] - j <= r.
    if n_drawn <= 32 * len(drawn):
        start = 0
        for j in range(m):
            end = excluded[j] - j
            for r in range(start, end):
                shift[r] = j
            start = end
        for r in range(start, n_drawn - m):
            shift[r] = m
        for i in range(len(drawn)):
            drawn[i] += shift[drawn[i]]
        return
    for j in range(m):
        shift[j] = excluded[j] - j
    for i in range(len(drawn)):
        rank, base, left = drawn[i], 0, m
        while left > 1:
            middle = left >> 1
            base += middle * (shift[base + middle - 1] <= rank)
            left -= middle
        drawn[i] = rank + base + (shift[base] <= rank)


@compiled
def shuffle(settings, epoch, owner, shuffled):
    """Fill in the positives of a user in the order of their hash, int64 [n]."""
    n = len(shuffled)
    draws = epoch * n + np.arange(n)
    keys = _keys(settings.seed, _BATCHES, settings.round, owner, draws)
    shuffled[:] = np.argsort(keys, kind="mergesort")


@compiled
def sample_history(seed, owner, items, cap, history):
    """Fill in the places of ``cap`` items with the smallest hashes, ascending, int32 [cap]."""
    keys = _keys(seed, _HISTORY, 0, owner, items)
    history[:] = np.sort(np.argsort(keys, kind="mergesort")[:cap])


@compiled
def _mark(words, items):
    """Set the bit of each item."""
    for i in range(len(items)):
        words[items[i] >> 6] |= _ONE << np.uint64(items[i] & 63)


@compiled
def collect(data, settings, scratch, u, ids):
    """Draw all that a user trains on in a round; return the number of touched items.

    The scratch's ``negatives`` [epochs, n, k] are filled, and the local row of each item in
    ``row_of``; the items of the local rows, sorted, in ``ids``.
    """
    low, high, marks = data.offsets[u], data.offsets[u + 1], scratch.marks
    excluded = data.excluded[data.excluded_offsets[u] : data.excluded_offsets[u + 1]]
    total = (high - low) * data.k
    _mark(marks, data.items[low:high])
    for epoch in range(settings.epochs):
        drawn = scratch.negatives[epoch * total : (epoch + 1) * total]
        draw_negatives(
            settings.seed,
            settings.round,
            data.users[u],
            epoch,
            excluded,
            data.n_drawn,
            scratch.shift,
            drawn,
        )
        _mark(marks, drawn)
    count = 0
    for word in range(len(marks)):
        left = marks[word]
        while left != 0:
            rest = left & (left - _ONE)
            item = 64 * word + _PLACE[((left ^ rest) * _TIMES) >> _TOP]
            ids[count] = item
            scratch.row_of[item] = count
            count += 1
            left = rest
        marks[word] = 0
    return count
