"""Distances between clients that changed the same rows."""

from importlib.util import find_spec

import numpy as np

from fedrec.types import FloatArray


def squared_distances(rows: FloatArray) -> FloatArray:
    """Return the squared distances between clients, float64 [g, m, m]; inf to themselves.

    Differences are squared and summed one by one: the sum of two squares less a product would lose
    what is much smaller than the changes themselves.

    Args:
        rows: float32 or float64 [g, m, n], n numbers of m clients for g items.
    """
    columns = np.ascontiguousarray(rows.transpose(0, 2, 1))
    if find_spec("numba") is not None:
        from fedrec.aggregation.distances_numba import sum_squares

        squared = np.empty((len(rows), rows.shape[1], rows.shape[1]))
        sum_squares(columns, squared)
    else:  # the same bits
        squared = np.zeros((len(rows), rows.shape[1], rows.shape[1]))
        for of_item, sums in zip(columns.astype(np.float64), squared, strict=True):
            for values in of_item:
                difference = values - values[:, None]
                sums += difference * difference
    at = np.arange(rows.shape[1])
    squared[:, at, at] = np.inf
    return squared
