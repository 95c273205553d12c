"""The bound with the kernel form of PLGC, trained jointly, aligned, decorrelated."""

from __future__ import annotations

from collections import namedtuple
from functools import cache
from typing import Any

import numpy as np

from experiments.benchmarks.bound import draw, fast, slopes, step_user

__all__ = ["Branch", "plgc_kernel"]

Branch = namedtuple("Branch", "directions offsets history tau ema decorrelation")
"""Directions float32 [n_items, d], each user's history, and PLGC's constants."""


@fast
def _distinct(pairs: Any, count: int, slot_of: Any, items: Any, slots: Any) -> int:
    used = 0
    for i in range(count):
        item = pairs[i]
        if slot_of[item] < 0:
            slot_of[item] = used
            items[used] = item
            used += 1
        slots[i] = slot_of[item]
    for t in range(used):
        slot_of[items[t]] = -1
    return used


@fast
def _aligned(features: Any, positives: int) -> float:
    """Alignment of features float32 [s, h] with the labels; the positives come first."""
    s = len(features)
    y = np.full(s, np.float32(-positives / s))
    y[:positives] += np.float32(1.0)
    along = np.dot(y, features)
    flat = features.reshape(-1)
    size = np.dot(flat, flat)
    return np.dot(along, along) / size if size > 0 else 0.0


@fast
def _decorrelate(rows: Any, weight: float, gradient: Any) -> None:
    """Add the gradient of the squared off-diagonal correlations of rows float32 [s, d]."""
    s, d = rows.shape
    if s < 2 or d < 2:
        return
    z = np.empty_like(rows)
    mean, along = np.zeros(d, np.float32), np.zeros(d, np.float32)
    inverse = np.ones(d, np.float32)
    for i in range(s):
        for a in range(d):
            mean[a] += rows[i, a]
    for a in range(d):
        mean[a] /= s
    for i in range(s):
        for a in range(d):
            z[i, a] = rows[i, a] - mean[a]
            along[a] += z[i, a] * z[i, a]
    for a in range(d):
        if along[a] > 0:
            inverse[a] = np.float32(1.0) / np.sqrt(along[a] / np.float32(s))
        along[a] = 0.0
        mean[a] = 0.0
    for i in range(s):
        for a in range(d):
            z[i, a] *= inverse[a]
    off = np.dot(z.T, z) / np.float32(s)
    for a in range(d):
        off[a, a] = 0.0
    dz = np.dot(z, off)
    for i in range(s):
        for a in range(d):
            along[a] += dz[i, a] * z[i, a]
            mean[a] += dz[i, a]
    share = np.float32(1.0 / s)
    # The mean of dz - z * along is that of dz, because z has mean 0.
    for a in range(d):
        along[a] *= share
        mean[a] *= share
        inverse[a] *= np.float32(weight * 4.0 / (s * d * (d - 1)))
    for i in range(s):
        for a in range(d):
            gradient[i, a] += (dz[i, a] - z[i, a] * along[a] - mean[a]) * inverse[a]


@cache
def plgc_kernel(dim: int) -> Any:
    """As `experiments.benchmarks.bound.base_kernel`, with `Branch` after the rates.

    Args:
        dim: d, known to the compiler.
    """

    @fast
    def plgc_round(data: Any, users: Any, rates: Any, branch: Any, total: Any) -> float:
        most = 0
        for u in range(len(data.ids)):
            most = max(most, data.offsets[u + 1] - data.offsets[u])
        pairs = np.empty(most * (data.k + 1), np.int32)
        pool = np.empty(data.n_items, np.int32)
        slot_of = np.full(data.n_items, -1, np.int32)
        items, slots = np.empty(len(pairs), np.int32), np.empty(len(pairs), np.int32)
        score, bits = np.empty(len(pairs), np.float32), np.empty(len(pairs), np.int32)
        rate, loss, zero = np.float32(rates.item), 0.0, np.float32(0.0)
        own, vector = np.empty(dim, np.float32), np.empty(dim, np.float32)
        for u in range(len(data.ids)):
            n = data.offsets[u + 1] - data.offsets[u]
            if n == 0:
                continue
            count = draw(data, u, pairs, pool)
            s = _distinct(pairs, count, slot_of, items, slots)
            mine = branch.history[branch.offsets[u] : branch.offsets[u + 1]]
            left, rows = np.empty((s, dim), np.float32), np.empty((s, dim), np.float32)
            for t in range(s):
                for a in range(dim):
                    left[t, a] = branch.directions[items[t], a]
                    rows[t, a] = data.table[items[t], a]
            right = np.empty((len(mine), dim), np.float32)
            for j in range(len(mine)):
                for a in range(dim):
                    right[j, a] = branch.directions[mine[j], a]
            kappa = np.dot(left, right.T)
            scale = np.float32(1.0 / np.sqrt(max(len(mine), 1)))
            flat = kappa.reshape(-1)
            for i in range(len(flat)):
                x = max(flat[i], zero)
                flat[i] = x * x * scale
            for j in range(len(mine)):
                slot_of[mine[j]] = j
            for t in range(n):  # the positives have the first slots
                if slot_of[items[t]] >= 0:
                    kappa[t, slot_of[items[t]]] = zero
            for j in range(len(mine)):
                slot_of[mine[j]] = -1
            mix = np.float32(users.share[u] * branch.tau)
            logit = np.empty(s, np.float32)
            pull = np.float32(rates.decay * n)
            for a in range(dim):
                vector[a] = users.vector[u, a]
                own[a] = pull * vector[a]
            for t in range(s):
                x, y = zero, zero
                for a in range(dim):
                    x += vector[a] * rows[t, a]
                for j in range(len(mine)):
                    y += kappa[t, j]
                logit[t] = x + mix * y
            for i in range(count):
                score[i] = logit[slots[i]]
            loss += slopes(score, count, n, bits)
            logit[:] = zero
            for i in range(count):
                logit[slots[i]] += score[i]
            gradient = np.empty((s, dim), np.float32)
            for t in range(s):
                for a in range(dim):
                    own[a] += logit[t] * rows[t, a]
                    gradient[t, a] = logit[t] * vector[a]
            if branch.decorrelation > 0:
                _decorrelate(rows, branch.decorrelation, gradient)
            for t in range(s):
                for a in range(dim):
                    total[items[t], a] -= rate * gradient[t, a]
            step_user(users, u, own, rates)
            size, other = _aligned(kappa, n), _aligned(rows, n)
            new = size / (size + other) if size + other > 0 else 0.5
            users.share[u] = branch.ema * users.share[u] + (1.0 - branch.ema) * new
        return loss

    return plgc_round
