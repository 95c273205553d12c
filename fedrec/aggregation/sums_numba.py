"""Exact sums of rows: what `fedrec.aggregation.fixed_point` does, in one pass."""

from __future__ import annotations

import numpy as np

from fedrec.compute.numba_compiler import compiled

__all__ = ["add_client", "merge_rows", "sum_rows"]


@compiled
def add_client(values, places, factor, weight, sums, total, counts, peak):
    """Add a client's changed rows to the sums.

    The innermost loop stands here and not in a function of its own, which would cost as much again.

    Args:
        values: float [n, d].
        places: int64 [n], the sum that each belongs to.
        factor: float64, what they are multiplied by before they are rounded.
        weight: int64, of the client.
        sums: int64 [m, d].
        total: int64 [m], the weight of the clients.
        counts: int64 [m], how many they are.
        peak: int64 [d], the largest absolute terms so far, by their bits: those of floats from 0,
            as whole numbers, have the order of the floats; then comes inf, then NaN.
    """
    for p in range(len(places)):
        at = places[p]
        counts[at] += 1
        total[at] += weight
        row, into = values[p], sums[at]
        for a in range(values.shape[1]):
            x = np.rint(np.float64(row[a]) * factor)
            into[a] += np.int64(x)
            peak[a] = max(peak[a], np.float64(abs(x)).view(np.int64))


@compiled
def sum_rows(values, ids, offsets, factor, weight):
    """Sum the rows of each item.

    Args:
        values: float [n, d].
        ids: int64 [n].
        offsets: int64 [c + 1], the rows of each client.
        factor: float64 [c], what a client's rows are multiplied by before they are rounded.
        weight: int64 [c], of a client.

    Returns:
        The items, int64 [m], sorted; their sums int64 [m, d]; the summed weight int64 [m] of the
        clients; the largest absolute term (not finite if one was not); the most terms of a sum.
    """
    d = values.shape[1]
    place = np.zeros(ids.max() + 1 if len(ids) > 0 else 0, np.int64)
    for p in range(len(ids)):
        place[ids[p]] = 1
    m = place.sum()
    items, m = np.empty(m, np.int64), 0
    for item in range(len(place)):
        if place[item] > 0:
            items[m], place[item] = item, m
            m += 1
    sums, total, counts = np.zeros((m, d), np.int64), np.zeros(m, np.int64), np.zeros(m, np.int64)
    places, peak = place[ids], np.zeros(d, np.int64)
    for c in range(len(offsets) - 1):
        low, high = offsets[c], offsets[c + 1]
        mine = values[low:high], places[low:high]
        add_client(mine[0], mine[1], factor[c], weight[c], sums, total, counts, peak)
    largest = np.int64(0)
    for a in range(d):
        largest = max(largest, peak[a])
    return items, sums, total, np.int64(largest).view(np.float64), counts.max()


@compiled
def merge_rows(ids, sums, weight, other_ids, other_sums, other_weight):
    """Add up the rows of two sums.

    Args:
        ids: int64 [m], sorted.
        sums: int64 [m, d].
        weight: int64 [m].
        other_ids: int64 [n], sorted.
        other_sums: int64 [n, d].
        other_weight: int64 [n].

    Returns:
        The items of both, their sums and weights; whether the sums are right, and the weights.
    """
    i = j = k = 0
    m, n, d = len(ids), len(other_ids), sums.shape[1]
    while i < m and j < n:
        a, b = ids[i], other_ids[j]
        i += a <= b
        j += b <= a
        k += 1
    k += m - i + n - j
    items = np.empty(k, np.int64)
    total, both = np.empty((k, d), np.int64), np.empty(k, np.int64)
    wrapped, heavy = np.zeros(d, np.int64), np.int64(0)
    i = j = 0
    for r in range(k):
        mine = j >= n or (i < m and ids[i] <= other_ids[j])
        theirs = i >= m or (j < n and other_ids[j] <= ids[i])
        items[r] = ids[i] if mine else other_ids[j]
        into = total[r]
        if mine and theirs:
            x, y = sums[i], other_sums[j]
            for a in range(d):
                s = x[a] + y[a]
                into[a] = s
                wrapped[a] |= (x[a] ^ s) & (y[a] ^ s)
            both[r] = weight[i] + other_weight[j]
            heavy |= (weight[i] ^ both[r]) & (other_weight[j] ^ both[r])
        elif mine:
            into[:] = sums[i]
            both[r] = weight[i]
        else:
            into[:] = other_sums[j]
            both[r] = other_weight[j]
        i += mine
        j += theirs
    worst = np.int64(0)
    for a in range(d):
        worst |= wrapped[a]
    return items, total, both, worst >= 0, heavy >= 0
