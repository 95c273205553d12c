"""PLGC's kernel form, for one user: the local branch, the sizes of branches, decorrelation."""

from __future__ import annotations

import numpy as np

from fedrec.training.jit.arithmetic import dot, total
from fedrec.training.jit.compiler import compiled

__all__ = ["alignment", "decorrelate", "kernel_branch", "residual", "touched", "trace"]


@compiled
def kernel_branch(z, items, positive, history, beta, balance, branch):
    """Fill the local branch of a user's touched items; return features and their size.

    Args:
        z: float [n_items, d], normalised rows.
        items: int32 [s], touched items, sorted.
        positive: bool [s].
        history: int64 [n], the items that make up the kernel.
        beta: exponent.
        balance: 0 fixed, 1 alignment, 2 residual, 3 trace.
        branch: float [s], filled here.
    """
    s, n, d = len(items), len(history), z.shape[1]
    left, right = np.empty((s, d), z.dtype), np.empty((n, d), z.dtype)
    for i in range(s):
        left[i] = z[items[i]]
    for j in range(n):
        right[j] = z[history[j]]
    kappa = np.dot(left, right.T)
    scale = z.dtype.type(1.0 / np.sqrt(max(n, 1)))
    _activate(kappa, scale, beta)
    for j in range(n):
        i = np.searchsorted(items, history[j])
        if i < s and items[i] == history[j]:
            kappa[i, j] = 0.0
    for i in range(s):
        branch[i] = total(kappa[i])
    size = 0.0
    if balance == 1:
        size = alignment(kappa, positive)
    elif balance == 3:
        size = trace(kappa)
    return kappa, size


@compiled
def _activate(kappa, scale, beta):
    """max(0, x)**beta * scale, in place."""
    zero = kappa.dtype.type(0.0)
    flat = kappa.reshape(-1)
    if beta == 2:
        for i in range(len(flat)):
            x = max(flat[i], zero)
            flat[i] = x * x * scale
    else:
        for i in range(len(flat)):
            x = max(flat[i], zero)
            power = x
            for _ in range(beta - 1):
                power *= x
            flat[i] = power * scale


@compiled
def alignment(features, positive):
    """`fedrec.personalization.balance.alignment`."""
    s, h = features.shape
    mean = positive.sum() / s
    along, size = np.zeros(h, features.dtype), 0.0
    for i in range(s):
        y = features.dtype.type((1.0 if positive[i] else 0.0) - mean)
        for j in range(h):
            along[j] += features[i, j] * y
        size += dot(features[i], features[i]) if h else 0.0
    return dot(along, along) / size if size > 0 else 0.0


@compiled
def residual(features, error):
    """`fedrec.personalization.balance.residual`."""
    s, h = features.shape
    along = np.zeros(h, features.dtype)
    for i in range(s):
        r = features.dtype.type(error[i])
        for j in range(h):
            along[j] += features[i, j] * r
    return dot(along, along) if h else 0.0


@compiled
def trace(features):
    """`fedrec.personalization.balance.trace`."""
    s, h = features.shape
    mean, size = np.zeros(h, features.dtype), np.zeros(h, features.dtype)
    for i in range(s):
        for j in range(h):
            mean[j] += features[i, j]
    for j in range(h):
        mean[j] /= s
    for i in range(s):
        for j in range(h):
            size[j] += (features[i, j] - mean[j]) * (features[i, j] - mean[j])
    return size.sum()


@compiled
def decorrelate(rows, weight, gradient, slots):
    """Add the weighted gradient of `decorrelation.single_view` on some rows.

    Args:
        rows: float [t, d], the working copy.
        weight: of the term.
        gradient: float [t, d], added to.
        slots: int64 [s], the user's rows.
    """
    n, d = len(slots), rows.shape[1]
    if n < 2 or d < 2:
        return
    kind = rows.dtype
    z = np.empty((n, d), kind)
    mean, inverse = np.zeros(d, kind), np.ones(d, kind)
    along, middle = np.zeros(d, kind), np.zeros(d, kind)
    for i in range(n):
        for a in range(d):
            z[i, a] = rows[slots[i], a]
            mean[a] += z[i, a]
    for a in range(d):
        mean[a] /= n
    for i in range(n):
        for a in range(d):
            z[i, a] -= mean[a]
            along[a] += z[i, a] * z[i, a]
    for a in range(d):
        if along[a] > 0:
            inverse[a] = 1.0 / np.sqrt(along[a] / n)
        along[a] = 0.0
    for i in range(n):
        for a in range(d):
            z[i, a] *= inverse[a]
    off = np.dot(z.T, z)
    for a in range(d):
        for b in range(d):
            off[a, b] /= n
        off[a, a] = 0.0
    dz = np.dot(z, off)
    for i in range(n):
        for a in range(d):
            along[a] += dz[i, a] * z[i, a]
    for a in range(d):
        along[a] /= n
    for i in range(n):
        for a in range(d):
            dz[i, a] -= z[i, a] * along[a]
            middle[a] += dz[i, a]
    for a in range(d):
        middle[a] /= n
        inverse[a] *= weight * 4.0 / (n * d * (d - 1))
    for i in range(n):
        for a in range(d):
            gradient[slots[i], a] += (dz[i, a] - middle[a]) * inverse[a]


@compiled
def touched(items, negatives, low, high):
    """The distinct items of a user in an epoch, sorted int64 [s], and which are positives."""
    k = negatives.shape[1]
    every = np.empty((high - low) * (k + 1), np.int64)
    at = 0
    for p in range(low, high):
        every[at] = items[p]
        at += 1
        for j in range(k):
            every[at] = negatives[p, j]
            at += 1
    every.sort()
    used = 0
    for i in range(len(every)):
        if i == 0 or every[i] != every[i - 1]:
            every[used] = every[i]
            used += 1
    touched = every[:used].copy()
    positive = np.zeros(used, np.bool_)
    at = low
    for i in range(used):
        while at < high and items[at] < touched[i]:
            at += 1
        positive[i] = at < high and items[at] == touched[i]
    return touched, positive
