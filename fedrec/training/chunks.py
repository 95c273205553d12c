"""Which clients are computed together, where their values lie, and what if they do not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from fedrec.errors import EngineError
from fedrec.types import IntArray, Ragged, RowBlock, Shard, offsets_of

__all__ = ["block_back", "in_chunks"]

T = TypeVar("T")


def block_back(block: RowBlock, order: IntArray) -> RowBlock:
    """A block whose clients stand in the order ``order``, with clients in the order 0, 1, ..."""
    client = np.argsort(order)
    lengths = np.diff(block.offsets)[client]
    at = Ragged(block.offsets, block.offsets).positions(client)
    return RowBlock(offsets_of(lengths), block.ids[at], block.values[at])


def in_chunks(
    chunks: Sequence[IntArray], compute: Callable[[IntArray], T], shard: Shard
) -> list[T]:
    """Compute clients some at a time; a chunk that does not fit in memory is halved.

    Args:
        chunks: Each int64 [b], client rows.
        compute: From client rows, int64 [b], to their result.
        shard: The clients, to name one that does not fit.

    Returns:
        The results of the chunks, or of their halves, in order.

    Raises:
        EngineError: If a client does not even fit alone.
    """
    waiting, results = list(chunks), list[T]()
    while waiting:
        rows = waiting.pop(0)
        try:
            results.append(compute(rows))
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(rows) == 1:
                raise EngineError(_too_large(shard, int(rows[0]), error)) from error
            waiting[:0] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return results


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or (
        "can't allocate memory" in text or "out of memory" in text
    )


def _too_large(shard: Shard, client: int, error: Exception) -> str:
    users = np.arange(shard.client_offsets[client], shard.client_offsets[client + 1])
    items = int(shard.train.lengths[users].sum())
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"client {shard.client_ids[client]} ({len(users)} users, {items} train items) does not fit "
        f"in memory ({reason}); lower train.batch_size, train.negatives or the size of the model"
    )
