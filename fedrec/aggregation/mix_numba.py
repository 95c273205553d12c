"""Sums of few base values, compiled."""

import numpy as np

from fedrec.compute.numba_compiler import compiled


@compiled
def add_up(bases, scale, starts, base_of, weights, unit, clients, of_item, places, rows):
    """Form rows of clients' values, item after item.

    Args:
        bases: float32 [k, m, w], the base values.
        scale: float64, what they are multiplied by to be whole.
        starts: int64 [c + 1], which of the weights are each client's.
        base_of: int64 [nnz], the base value of each weight.
        weights: float64 [nnz], whole numbers.
        unit: float64 [c], what the sums are multiplied by.
        clients: int64 [n], whose value each row is, rows of one item after those of another.
        of_item: int64 [m + 1], which of the rows are each item's.
        places: int64 [n], where each row is written.
        rows: float32 [n, w], written.
    """
    k, m, w = bases.shape
    whole, total = np.empty((k, w), np.float64), np.empty(w, np.float64)
    for i in range(m):
        if of_item[i] == of_item[i + 1]:
            continue
        for b in range(k):
            for j in range(w):
                whole[b, j] = np.rint(np.float64(bases[b, i, j]) * scale)
        for n in range(of_item[i], of_item[i + 1]):
            c, row = clients[n], rows[places[n]]
            total[:] = 0.0
            p, end = starts[c], starts[c + 1]
            # Four at a time, so that the total is read and written less often.
            while p + 4 <= end:
                w0, w1, w2, w3 = weights[p], weights[p + 1], weights[p + 2], weights[p + 3]
                b0, b1 = whole[base_of[p]], whole[base_of[p + 1]]
                b2, b3 = whole[base_of[p + 2]], whole[base_of[p + 3]]
                for j in range(w):
                    total[j] += w0 * b0[j] + w1 * b1[j] + w2 * b2[j] + w3 * b3[j]
                p += 4
            while p < end:
                w0, b0 = weights[p], whole[base_of[p]]
                for j in range(w):
                    total[j] += w0 * b0[j]
                p += 1
            for j in range(w):
                row[j] = np.float32(total[j] * unit[c])
