"""The gradients of `fedrec.personalization.plgc.decorrelation`, in closed form."""

from __future__ import annotations

import numpy as np

from fedrec.compute.numba_compiler import compiled, compiled_sums

__all__ = ["cross_view", "single_view"]


@compiled
def _centre(rows, at, z, inverse):
    """z = the rows, centred; inverse = 1 / standard deviation, 1 for a constant column."""
    n, d = len(at), rows.shape[1]
    zero = rows.dtype.type(0.0)
    mean, square = np.zeros(d, rows.dtype), np.zeros(d, rows.dtype)
    for i in range(n):
        row, own = rows[at[i]], z[i]
        for a in range(d):
            own[a] = row[a]
        for a in range(d):
            mean[a] += row[a]
    for a in range(d):
        mean[a] /= n
    for i in range(n):
        own = z[i]
        for a in range(d):
            own[a] -= mean[a]
        for a in range(d):
            square[a] += own[a] * own[a]
    for a in range(d):
        inverse[a] = 1.0 / np.sqrt(square[a] / n) if square[a] > zero else 1.0


@compiled
def single_view(rows, at, weight, z, dz, gram):
    """The weighted gradient of `single_view`; false if there is none.

    The gradient is linear in the standardised rows: it is their product with the correlations,
    which carry on their diagonal what standardising takes away.

    Args:
        rows: float [t, d].
        at: int32 [n], which of them.
        weight: of the term.
        z: float [n, d], scratch.
        dz: float [n, d], filled.
        gram: float [4, d, d], scratch.
    """
    n, d = len(at), rows.shape[1]
    if n < 2 or d < 2:
        return False
    inverse, off = gram[1, 0], gram[0]
    _centre(rows, at, z, inverse)
    np.dot(z.T, z, off)
    _turn(off, inverse, 1.0 / n, weight * 4.0 / (float(n) * d * (d - 1)))
    np.dot(z, off, dz)
    return True


@compiled_sums
def _turn(off, inverse, share, step):
    """From the sums of products of centred columns to what the rows are multiplied by."""
    d = len(inverse)
    for a in range(d):
        own, along = off[a], off.dtype.type(0.0)
        left, right = off.dtype.type(inverse[a] * share), off.dtype.type(inverse[a] * step)
        own[a] = 0.0
        for b in range(d):
            c = own[b] * (left * inverse[b])
            along += c * c
            own[b] = c * (right * inverse[b])
        own[a] = -along * (right * inverse[a])


@compiled
def cross_view(rows, at, frozen, frozen_at, weight, gamma, z, other, dz, gram):
    """The weighted gradient of `cross_view` for the rows; false if there is none.

    Args:
        rows: float [t, d].
        at: int32 [n], which of them.
        frozen: float [n_items, d].
        frozen_at: int32 [n].
        weight: of the term.
        gamma: of pairs of different dimensions.
        z: float [n, d], scratch.
        other: float [n, d], scratch.
        dz: float [n, d], filled.
        gram: float [4, d, d], scratch.
    """
    n, d = len(at), rows.shape[1]
    if n < 2:
        return False
    inverse, frozen_inverse = np.empty(d, rows.dtype), np.empty(d, rows.dtype)
    _centre(rows, at, z, inverse)
    _centre(frozen, frozen_at, other, frozen_inverse)
    both, slope = gram[0], gram[1]
    np.dot(z.T, other, both)
    for a in range(d):
        along = 0.0
        for b in range(d):
            c = both[a, b] * (inverse[a] * frozen_inverse[b] / n)
            pull = -2.0 * (1.0 - c) / d if a == b else 2.0 * gamma * c / d
            along += pull * c
            slope[b, a] = weight * pull * frozen_inverse[b] * inverse[a] / n
        inverse[a] *= inverse[a] * weight * along / n
    np.dot(other, slope, dz)
    for i in range(n):
        for a in range(d):
            dz[i, a] -= z[i, a] * inverse[a]
    return True
