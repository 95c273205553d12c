"""How long the updates of clients are, and the rows of which they consist; and shorter ones."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fedrec.aggregation.update import UpdateBatch
from fedrec.ragged import Ragged
from fedrec.types import FloatArray


def squared_rows(batch: UpdateBatch) -> Mapping[str, FloatArray]:
    """Return the squared length of every changed row, and of every client's dense parameters.

    Args:
        batch: The updates of c clients.

    Returns:
        Per item table float64 [n], of its n changed rows; per dense parameter float64 [c].
    """
    values = {name: block.values for name, block in batch.tables.items()} | dict(batch.dense)
    exact = {name: np.asarray(value, np.float64) for name, value in values.items()}
    return {n: np.asarray((v * v).sum(axis=tuple(range(1, v.ndim)))) for n, v in exact.items()}


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
        return np.asarray(values * factors[name].reshape(-1, *[1] * (values.ndim - 1)))

    tables = {n: replace(b, values=product(n, b.values)) for n, b in batch.tables.items()}
    return replace(batch, tables=tables, dense={n: product(n, v) for n, v in batch.dense.items()})
