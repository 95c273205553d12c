"""How long the updates of clients are, and the rows of which they consist; and shorter ones."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod

import numpy as np

from fedrec.aggregation.update import UpdateBatch
from fedrec.ragged import Ragged
from fedrec.types import FloatArray

_AT_ONCE = 2**15
"""Values of rows that are computed together."""


def slices_of(rows: FloatArray) -> Iterator[slice]:
    """Yield slices of rows, [n, size], few enough that what is made of them stays in the cache."""
    step = max(_AT_ONCE // max(rows.shape[1], 1), 1)
    for start in range(0, len(rows), step):
        yield slice(start, start + step)


def row_squares(values: FloatArray) -> FloatArray:
    """Return the squared length of each row, float64 [n].

    Every fourth square is added up, then the four sums: the order in which
    `fedrec.training.executors.numba.transforms` adds them.

    Args:
        values: float [n, ...].
    """
    rows = values.reshape(len(values), prod(values.shape[1:]))
    squares = np.empty(len(rows))
    for some in slices_of(rows):
        # Column by column, because numpy adds up short rows one by one.
        columns = np.ascontiguousarray(rows[some].T).astype(np.float64)
        columns *= columns
        sums = np.zeros((4, columns.shape[1]))
        for at in range(0, len(columns), 4):
            four = columns[at : at + 4]
            sums[: len(four)] += four
        squares[some] = (sums[0] + sums[2]) + (sums[1] + sums[3])
    return squares


def squared_rows(batch: UpdateBatch) -> Mapping[str, FloatArray]:
    """Return the squared length of every changed row, and of every client's dense parameters.

    Args:
        batch: The updates of c clients.

    Returns:
        Per item table float64 [n], of its n changed rows; per dense parameter float64 [c].
    """
    values = {name: block.values for name, block in batch.tables.items()} | dict(batch.dense)
    return {name: row_squares(value) for name, value in values.items()}


def squared_lengths(batch: UpdateBatch) -> FloatArray:
    """Return the squared length of each client's whole update, float64 [c]."""
    total = np.zeros(len(batch.client_ids))
    for name, squares in squared_rows(batch).items():
        block = batch.tables.get(name)
        if block is not None:
            squares = np.bincount(Ragged(block.offsets, block.ids).owners(), squares, len(total))
        total += squares
    return total


def of_rows(batch: UpdateBatch, of_clients: FloatArray) -> Mapping[str, FloatArray]:
    """Return a number of each client, [c], for each of its rows and dense parameters, by name."""
    tables = {
        name: of_clients[Ragged(block.offsets, block.ids).owners()]
        for name, block in batch.tables.items()
    }
    return tables | dict.fromkeys(batch.dense, of_clients)


def scaled(batch: UpdateBatch, factors: Mapping[str, FloatArray]) -> UpdateBatch:
    """Return updates whose values are multiplied by numbers of the form of `squared_rows`."""

    def product(name: str, values: FloatArray) -> FloatArray:
        if (factors[name] == 1).all():
            return values
        return np.asarray(values * factors[name].reshape(-1, *[1] * (values.ndim - 1)))

    tables = {n: replace(b, values=product(n, b.values)) for n, b in batch.tables.items()}
    return replace(batch, tables=tables, dense={n: product(n, v) for n, v in batch.dense.items()})
