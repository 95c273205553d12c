"""Distances between clients that changed the same rows, compiled."""

import numpy as np

from fedrec.compute.numba_compiler import compiled


@compiled
def sum_squares(columns, squared):
    """Sum the squared differences between clients.

    Args:
        columns: float32 or float64 [g, n, m], n numbers of m clients for g items.
        squared: float64 [g, m, m], written.
    """
    sums = np.empty(columns.shape[2])
    for item in range(len(columns)):
        for u in range(len(sums)):
            sums[:] = 0.0
            for number in range(columns.shape[1]):
                values = columns[item, number]
                of_u = np.float64(values[u])
                for v in range(len(sums)):
                    difference = np.float64(values[v]) - of_u
                    sums[v] += difference * difference
            squared[item, u] = sums
