"""The bound: a round's arithmetic as one hand-written kernel, and nothing else.

No framework, no wire, no durable state, no exact sums, no checks; whatever arithmetic is fast is
allowed. What it gives is the same to rounding: the summed change of the table, the users' vectors
with their Adam moments, the loss. One local epoch, one full-batch step.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from functools import cache
from typing import Any

import numba as nb
import numpy as np

from fedrec.storage.cache import cache_folder

__all__ = ["Data", "Rates", "Users", "base_kernel", "draw", "fast", "slopes", "step_user"]

nb.config.CACHE_DIR = str(cache_folder() / "numba")  # type: ignore[attr-defined]

Data = namedtuple("Data", "seed purpose round ids offsets items n_items k table")
"""What is read: the ids int64 [u] of the users, their positives, float32 [n_items, d]."""

Users = namedtuple("Users", "vector first second steps share")
"""What is changed in place: float32 [u, d] three times, [u] twice."""

Rates = namedtuple("Rates", "item lr beta1 beta2 epsilon decay")
"""Step sizes, Adam's constants, weight decay of the users."""

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_FLUSH = 512
"""Factors, each at most 2, whose product still is a float64."""


def fast(function: Callable[..., Any]) -> Any:
    """Machine code that may reorder and approximate."""
    return nb.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")(function)


@fast
def draw(data: Any, u: int, pairs: Any, pool: Any) -> Any:
    """Fill in a user's positives and their negatives; return how many pairs there are.

    Args:
        data: `Data`.
        u: which user.
        pairs: int32, at least as long as the pairs: positives, then negatives.
        pool: int32 [n_items], scratch.
    """
    low, high = data.offsets[u], data.offsets[u + 1]
    n = high - low
    size = data.n_items - n
    for p in range(n):
        pairs[p] = data.items[low + p]
    k0 = np.uint64(data.seed & 0xFFFFFFFF)
    k1 = np.uint64((data.seed >> 32) & 0xFFFFFFFF)
    owner = data.ids[u]
    c1_, c2_ = np.uint64(owner & 0xFFFFFFFF), np.uint64(data.round & 0xFFFFFFFF)
    c3_ = np.uint64((data.purpose << 24) | ((owner >> 32) & 0xFFFFFF))
    room = np.uint64(size)
    for j in range(n * data.k):
        c0, c1, c2, c3, a, b = np.uint64(j), c1_, c2_, c3_, k0, k1
        for _ in range(10):
            p0, p1 = _M0 * c0, _M1 * c2
            c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ a, p1 & _LOW, (p0 >> _32) ^ c3 ^ b, p0 & _LOW
            a, b = (a + _W0) & _LOW, (b + _W1) & _LOW
        pairs[n + j] = np.int32((c0 * room) >> _32)
    if n * data.k * 32 > data.n_items:
        # Many draws: list the allowed items once.
        at, item = 0, 0
        for p in range(n + 1):
            stop = data.n_items if p == n else data.items[low + p]
            for i in range(stop - item):
                pool[at + i] = item + i
            at, item = at + stop - item, stop + 1
        for j in range(n, n * (data.k + 1)):
            pairs[j] = pool[pairs[j]]
    else:
        for j in range(n, n * (data.k + 1)):
            rank, below, above = pairs[j], 0, n
            while below < above:
                middle = (below + above) // 2
                if data.items[low + middle] - middle <= rank:
                    below = middle + 1
                else:
                    above = middle
            pairs[j] = rank + below
    return n * (data.k + 1)


@fast
def slopes(score: Any, count: int, positives: int, bits: Any) -> float:
    """Turn scores into slopes of the cross-entropy, in place; return the loss.

    Args:
        score: float32 [count, ...], logits.
        count: how many.
        positives: how many of them, from the first, are positives.
        bits: int32, as long as the scores, scratch.
    """
    one, half = np.float32(1.0), np.float32(0.5)
    power = bits.view(np.float32)
    for i in range(positives):
        score[i] = -score[i]
    loss, product, kept = 0.0, 1.0, 0
    for i in range(count):
        loss += max(score[i], np.float32(0.0))
    for i in range(count):
        x = max(-abs(score[i]), np.float32(-87.0))
        whole = np.floor(x * np.float32(1.44269504) + half)
        bits[i] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        f = (x - whole * np.float32(0.693359375)) + whole * np.float32(2.12194440e-4)
        e = np.float32(1.9875691500e-4)
        e = e * f + np.float32(1.3981999507e-3)
        e = e * f + np.float32(8.3334519073e-3)
        e = e * f + np.float32(4.1665795894e-2)
        e = e * f + np.float32(1.6666665459e-1)
        e = e * f + half
        e = ((e * f) * f + f + one) * power[i]
        score[i] = (one if score[i] >= 0 else e) / (one + e)
        power[i] = e
    while kept < count:
        stop = min(count, kept + _FLUSH)
        product = 1.0
        for i in range(kept, stop):
            product *= 1.0 + power[i]
        loss += np.log(product)
        kept = stop
    for i in range(positives):
        score[i] = -score[i]
    return loss


@fast
def step_user(users: Any, u: int, own: Any, rates: Any) -> None:
    """One Adam step of a user's vector.

    Args:
        users: `Users`.
        u: which.
        own: float32 [d], the gradient.
        rates: `Rates`.
    """
    users.steps[u] += 1
    t = users.steps[u]
    one = np.float32(1.0 / (1.0 - rates.beta1**t))
    two = np.float32(1.0 / (1.0 - rates.beta2**t))
    b1, b2 = np.float32(rates.beta1), np.float32(rates.beta2)
    rest1, rest2 = np.float32(1.0 - rates.beta1), np.float32(1.0 - rates.beta2)
    lr, epsilon = np.float32(rates.lr), np.float32(rates.epsilon)
    for a in range(len(own)):
        m = b1 * users.first[u, a] + rest1 * own[a]
        v = b2 * users.second[u, a] + rest2 * own[a] * own[a]
        users.first[u, a], users.second[u, a] = m, v
        users.vector[u, a] -= lr * (m * one) / (np.sqrt(v * two) + epsilon)


@cache
def base_kernel(dim: int) -> Any:
    """Matrix factorisation: (`Data`, `Users`, `Rates`, total float32 [n_items, d]) -> loss.

    Args:
        dim: d, known to the compiler.
    """

    @fast
    def base_round(data: Any, users: Any, rates: Any, total: Any) -> float:
        most = 0
        for u in range(len(data.ids)):
            most = max(most, data.offsets[u + 1] - data.offsets[u])
        pairs = np.empty(most * (data.k + 1), np.int32)
        pool = np.empty(data.n_items, np.int32)
        score = np.empty(len(pairs), np.float32)
        bits = np.empty(len(pairs), np.int32)
        rate, loss = np.float32(rates.item), 0.0
        own, vector = np.empty(dim, np.float32), np.empty(dim, np.float32)
        for u in range(len(data.ids)):
            n = data.offsets[u + 1] - data.offsets[u]
            if n == 0:
                continue
            count = draw(data, u, pairs, pool)
            pull = np.float32(rates.decay * n)
            for a in range(dim):
                vector[a] = users.vector[u, a]
                own[a] = pull * vector[a]
            for i in range(count):
                item, s = pairs[i], np.float32(0.0)
                for a in range(dim):
                    s += vector[a] * data.table[item, a]
                score[i] = s
            loss += slopes(score, count, n, bits)
            for i in range(count):
                item, g = pairs[i], score[i]
                move = rate * g
                for a in range(dim):
                    own[a] += g * data.table[item, a]
                    total[item, a] -= move * vector[a]
            step_user(users, u, own, rates)
        return loss

    return base_round
