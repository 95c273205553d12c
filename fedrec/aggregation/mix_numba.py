"""Sums of few base values, compiled."""

from functools import partial

import numpy as np

from fedrec.compute.numba_compiler import compiled


# Products and sums are exact: an instruction that does both changes no bit.
@partial(compiled, fastmath={"contract"})
def add_up(bases, width, scale, weights, units, clients, of_block, places, values):
    """Form some columns of clients' values, block after block of columns.

    Args:
        bases: float32 [k, m], the base values.
        width: columns of a block; the last one may have fewer.
        scale: float64, a power of two: what base values are multiplied by to be whole.
        weights: (starts, base_of, values), int64 [c + 1], int64 [nnz] and float64 [nnz], whole
            numbers: those of client u, with their base values, from ``starts[u]``.
        units: (unit, copied), float64 [c], what the sums are multiplied by, and int64 [c], of
            which base value a client has a copy instead, -1 for none.
        clients: int64 [n], the clients of each block, one block after the other.
        of_block: int64 [b + 1], which of them are each block's.
        places: int64 [n], where the columns of each are written.
        values: float32 [v], written.
    """
    starts, base_of, of_base = weights
    unit, copied = units
    k, m = bases.shape
    rounded, total = np.empty((k, width), np.float32), np.empty(width, np.float64)
    for block in range(len(of_block) - 1):
        if of_block[block] == of_block[block + 1]:
            continue
        first = block * width
        w = min(width, m - first)
        for b in range(k):
            for j in range(w):
                # Has no more digits than the base value: single precision holds it.
                rounded[b, j] = np.float32(np.rint(np.float64(bases[b, first + j]) * scale))
        for n in range(of_block[block], of_block[block + 1]):
            c, row = clients[n], values[places[n] : places[n] + w]
            if copied[c] >= 0:
                row[:] = bases[copied[c], first : first + w]
                continue
            total[:] = 0.0
            p, end = starts[c], starts[c + 1]
            # Four at a time, so that the total is read and written less often.
            while p + 4 <= end:
                w0, w1, w2, w3 = of_base[p], of_base[p + 1], of_base[p + 2], of_base[p + 3]
                b0, b1 = rounded[base_of[p]], rounded[base_of[p + 1]]
                b2, b3 = rounded[base_of[p + 2]], rounded[base_of[p + 3]]
                for j in range(w):
                    total[j] += w0 * b0[j] + w1 * b1[j] + w2 * b2[j] + w3 * b3[j]
                p += 4
            while p < end:
                w0, b0 = of_base[p], rounded[base_of[p]]
                for j in range(w):
                    total[j] += w0 * b0[j]
                p += 1
            for j in range(w):
                row[j] = np.float32(total[j] * unit[c])
