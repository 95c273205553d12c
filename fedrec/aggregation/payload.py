"""How many bytes a client's own training message carries, whoever simulates the client."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedrec.types import FloatArray, Params, UpdateBatch

__all__ = ["ID_BYTES", "VALUE_BYTES", "download_bytes", "upload_bytes"]

VALUE_BYTES = 4
"""Of a float32 value."""

ID_BYTES = 4
"""Of the id of an item's row."""


def upload_bytes(update: UpdateBatch) -> int:
    """Count the bytes that the clients of a batch send to the server, each in its own message.

    A client sends the change of every item row that it touched, as float32 values with the row's
    id (int32), and the change of every dense parameter, as float32. What a strategy's client rule
    sends beside a parameter counts likewise. Framing does not count: names, shapes, offsets, the
    client's id, its number of examples and its loss. Neither does it matter on which node a client
    is simulated, or that a node sums the updates of its clients before it answers.

    Args:
        update: The updates of some clients, as they were trained.
    """
    total = sum(VALUE_BYTES * change.size for change in update.dense.values())
    for block in update.tables.values():
        total += ID_BYTES * len(block.ids) + VALUE_BYTES * block.values.size
    for rows in update.summed.values():
        total += rows.uploaded * (ID_BYTES + VALUE_BYTES * _row_size(rows.sums))
    return total


def download_bytes(params: Params | Mapping[str, FloatArray]) -> int:
    """Count the bytes that the server sends to one client to train with: every value as float32.

    Args:
        params: What the strategy broadcasts to the client: the shared parameters, dense, and what
            it sends beside them.
    """
    return sum(VALUE_BYTES * np.asarray(value).size for value in params.values())


def _row_size(table: FloatArray) -> int:
    return int(np.prod(table.shape[1:], dtype=np.int64))
