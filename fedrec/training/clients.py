"""Training and ranking for the clients of a node: chunk by chunk, from and to plain arrays."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from fedrec.aggregation.reduce import Summing, joined
from fedrec.errors import EngineError
from fedrec.personalization.base import FrozenItems
from fedrec.training.draws import Layout, positives_of_clients, seen_items
from fedrec.training.forward import encode_catalogue
from fedrec.training.local_sgd import train_chunk
from fedrec.training.plan import plan_training
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, IntArray, Params, Shard, UpdateBatch, offsets_of

T = TypeVar("T")


_CHUNK_BYTES = 2**21
"""Item rows of the pairs that are computed together: few enough to stay in the cache."""

_DENSE_SHARE = 16
"""Dense and private parameters may take so many times as much: 32 MiB of each of the few copies of
a step."""


def train_clients(
    task: ClientTask,
    shard: Shard,
    params: Params,
    local: Params,
    round: int,
    chunk: int = 64,
    popularity: IntArray | None = None,
    summing: Summing | None = None,
) -> tuple[UpdateBatch, dict[str, FloatArray]]:
    """Train clients for a round.

    Args:
        task: Model, personalization, optimizers.
        shard: The clients that train. A ``vmap`` model fills clients of a chunk up to equal
            length, so neighbours of equal length are trained fastest.
        params: The shared parameters, float32, and what the strategy sent beside them.
        local: The private parameters of these clients, in their order (see `train_chunk`).
        round: The round.
        chunk: Clients in one computation at most; changes no bit, but for ``vmap`` models, whose
            bits are those of the chunks. Fewer where they are large, halved where a chunk does
            not fit in memory.
        popularity: int64 [n_items], weights for popularity sampling.
        summing: How changed rows will be summed, if nobody wants to see them before; numba then
            sums them itself, others do not care.

    Returns:
        The updates, and the new private parameters in the same order.

    Raises:
        EngineError: If a client does not fit in memory even alone.
    """
    if task.executor() == "numba":
        from fedrec.compute.numba_compiler import build
        from fedrec.training.executors.numba.executor import train_numba

        build(task.dtype)
        return train_numba(task, shard, params, local, round, summing)
    tensors = tensors_of(params, task.dtype)
    table = tensors.get("item", torch.zeros(shard.n_items, 0))
    if task.mixes_vectors and task.personalization.needs_frozen_items:
        table = encode_catalogue(task, tensors)
    unit_item_vectors = task.personalization.unit_item_vectors(table)
    layout = Layout.of(task, shard)

    def train(rows: slice) -> tuple[UpdateBatch, dict[str, FloatArray]]:
        clients = np.arange(rows.start, rows.stop)
        subset, at = shard.take(clients), layout.positions(clients)
        before = {name: local[name][at[spec.axis or ""]] for name, spec in task.locals().items()}
        plan = plan_training(task, subset, round, popularity, seen_items(task, subset, before))
        frozen_items = frozen_items_of(task, subset, table, unit_item_vectors)
        return train_chunk(task, plan, frozen_items, tensors, tensors_of(before, task.dtype))

    cuts = bounded_slices(offsets_of(_step_bytes(task, shard)), _CHUNK_BYTES, chunk)
    trained = [result for rows in cuts for result in halved_where_full(rows, train, shard)]
    private = [values for _, values in trained]
    return joined([update for update, _ in trained]), {
        name: np.concatenate([values[name] for values in private]) for name in task.locals()
    }


def _step_bytes(task: ClientTask, shard: Shard) -> IntArray:
    """Return what a step of each client takes of `_CHUNK_BYTES`, int64 [c]."""
    train, window = task.train, task.model.window
    positives = shard.train.lengths
    if train.batch_size != "full":
        positives = np.minimum(positives, int(train.batch_size))
    if window is not None:
        positives = np.minimum(positives, window)
    pairs = positives * (1 + train.negatives) + task.personalization.random_rows
    of_client = np.bincount(shard.client_of_user(), pairs, shard.n_clients)
    copies = 1 + len(train.optimizers.shared.state)
    dense = (copies * task.size(*task.dense()) + task.size(*task.private())) / _DENSE_SHARE
    row = task.size(*task.tables(), *task.frozen()) + task.encodes * task.width
    values = row * of_client + dense
    return (np.dtype(task.dtype).itemsize * values).astype(np.int64)


def tensors_of(params: Params, dtype: str) -> dict[str, torch.Tensor]:
    """Copy arrays to tensors; floats get a type, ``float32`` or ``float64``."""
    kind = torch.float64 if dtype == "float64" else torch.float32
    tensors = {name: torch.as_tensor(np.array(value)) for name, value in params.items()}
    return {n: t.to(kind) if t.is_floating_point() else t for n, t in tensors.items()}


def frozen_items_of(
    task: ClientTask, shard: Shard, table: torch.Tensor, unit_item_vectors: torch.Tensor | None
) -> FrozenItems:
    """Return the frozen item table, for the users of a shard."""
    return FrozenItems(
        table=table,
        unit_item_vectors=unit_item_vectors,
        history=task.personalization.history(shard, task.seed),
        positives=positives_of_clients(shard),
        clients=shard.client_of_user(),
    )


def bounded_slices(offsets: IntArray, budget: int, most: int | None = None) -> list[slice]:
    """Cut consecutive clients so that what each slice takes is bounded.

    Args:
        offsets: int64 [c + 1], what the clients before each one take, in any unit.
        budget: Of a slice; a client that takes more stands alone.
        most: Clients of a slice at most; None: any number.

    Returns:
        Slices of the clients, in order, none empty.
    """
    cuts, start = [], 0
    for at in range(1, len(offsets) - 1):
        if offsets[at + 1] - offsets[start] > budget or at - start == most:
            cuts.append(slice(start, at))
            start = at
    return [*cuts, slice(start, len(offsets) - 1)] if len(offsets) > 1 else []


def halved_where_full(rows: slice, compute: Callable[[slice], T], shard: Shard) -> list[T]:
    """Compute some clients together, or their halves where they do not fit in memory.

    Args:
        rows: Client rows.
        compute: From client rows to their result.
        shard: The clients, to name one that does not fit.

    Returns:
        The results of the clients, or of their halves, in order.

    Raises:
        EngineError: If a client does not even fit alone.
    """
    try:
        return [compute(rows)]
    except (MemoryError, RuntimeError) as error:
        text = str(error).strip()
        full = "can't allocate memory" in text or "out of memory" in text
        if not (full or isinstance(error, MemoryError)):
            raise
        middle = (rows.start + rows.stop) // 2
        if middle == rows.start:
            users = slice(*shard.client_offsets[middle : middle + 2])
            reason = (text or type(error).__name__).splitlines()[0]
            raise EngineError(
                f"client {shard.client_ids[middle]} ({users.stop - users.start} users, "
                f"{shard.train.lengths[users].sum()} train items) does not fit in memory "
                f"({reason}); lower train.batch_size, train.negatives or the size of the model"
            ) from error
    halves = slice(rows.start, middle), slice(middle, rows.stop)
    return [result for half in halves for result in halved_where_full(half, compute, shard)]
