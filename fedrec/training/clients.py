"""Training and ranking for the clients of a node: chunk by chunk, from and to plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch

from fedrec.aggregation.reduce import Summing
from fedrec.errors import ConfigError, MissingExtra
from fedrec.personalization.base import FrozenItems
from fedrec.training.chunks import block_back, in_chunks
from fedrec.training.client_rule import SEEN_ITEMS
from fedrec.training.client_state import seen_items
from fedrec.training.layout import Layout, positives_of_clients
from fedrec.training.local_sgd import Outcome, train_chunk
from fedrec.training.parts import parts
from fedrec.training.plan import TrainingPlan, plan_training
from fedrec.training.task import ClientTask, has_machine_code
from fedrec.types import (
    FloatArray,
    IntArray,
    Params,
    Ragged,
    RowBlock,
    Shard,
    UpdateBatch,
    offsets_of,
)

__all__ = ["frozen_items_of", "resolve_executor", "tensors_of", "train_clients"]


_CHUNK_BYTES = 2**21
"""Item rows of the pairs that are computed together: few enough to stay in the cache."""

_DENSE_SHARE = 16
"""Dense parameters may take so many times as much: 32 MiB of each of the few copies of a step."""


def resolve_executor(task: ClientTask) -> Literal["numba", "flat", "vmap", "loop"]:
    """Which kernel trains a method.

    ``compiled`` and ``reference`` give the same bits whichever clients are trained together;
    ``loop`` too, as each client is alone; ``vmap`` gives them to rounding.

    Raises:
        ConfigError: If machine code is asked for and there is none for the method, or the model
            looks at the order of items but is ``flat``.
        MissingExtra: If there is, but numba is not installed.
    """
    asked, model = task.train.backend, task.model
    if model.execution == "flat" and model.window is not None:
        raise ConfigError(
            f"model: {type(model).__name__} has a window but is 'flat'; declare execution = 'vmap' "
            "or 'loop'"
        )
    if asked == "torch" or (asked == "auto" and not has_machine_code(task)):
        return model.execution
    if not has_machine_code(task):
        raise ConfigError(
            "train.backend: there is no machine code for this model and personalization; "
            "write 'auto' or 'torch'"
        )
    if find_spec("numba") is None:
        raise MissingExtra("numba, which train.backend: torch does without,", "sim")
    return "numba"


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
        task: model, personalization, optimisers.
        shard: the clients that train.
        params: the global parameters, float32, and what the strategy sent beside them.
        local: the local parameters of these clients, in their order (see `train_chunk`).
        round: the round.
        chunk: clients in one computation at most; changes no bit, but for ``vmap`` models, whose
            bits are those of the chunks. Fewer where they are large, halved where a chunk does
            not fit in memory.
        popularity: int64 [n_items], weights for popularity sampling.
        summing: How changed rows will be summed, if nobody wants to see them before; the compiled
            kernel then sums them itself, others do not care.

    Returns:
        The updates, and the new local parameters in the same order.

    Raises:
        EngineError: If a client does not fit in memory even alone.
    """
    if resolve_executor(task) == "numba":
        from fedrec.training.executors.compiled import train_compiled

        return train_compiled(task, shard, params, local, round, popularity, summing)
    tensors = tensors_of(params, task.dtype)
    unit_item_vectors = task.personalization.unit_item_vectors(tensors["item"])
    layout = Layout.of(task, shard)

    def train(rows: IntArray) -> tuple[TrainingPlan, Outcome]:
        part = shard.take(rows)
        at = layout.positions(rows)
        mine = {
            name: _tensor(local[name][at[spec.axis or ""]], tensors["item"].dtype)
            for name, spec in task.locals().items()
        }
        work = plan_training(task, part, round, popularity, _remembered(layout, rows, mine))
        frozen_items = frozen_items_of(task, part, tensors["item"], unit_item_vectors)
        return work, train_chunk(task, work, frozen_items, tensors, mine)

    order = np.arange(shard.n_clients, dtype=np.int64)
    if task.model.execution == "vmap":
        order = np.argsort(-_examples(shard), kind="stable")
    cuts = parts(offsets_of(_step_bytes(task, shard)[order]), _CHUNK_BYTES, chunk)
    trained = in_chunks([order[cut] for cut in cuts], train, shard)
    return _merge(task, shard, round, layout, order, trained)


def _merge(
    task: ClientTask,
    shard: Shard,
    round: int,
    layout: Layout,
    order: IntArray,
    trained: list[tuple[TrainingPlan, Outcome]],
) -> tuple[UpdateBatch, dict[str, FloatArray]]:
    """The results of clients that were trained in some order, in their own."""
    works, outcomes = [work for work, _ in trained], [outcome for _, outcome in trained]
    ids = np.concatenate([work.row_items for work in works] or [np.zeros(0, np.int64)])
    local_rows = [np.diff(work.row_offsets) for work in works]
    offsets = offsets_of(np.concatenate(local_rows or [np.zeros(0, np.int64)]))
    tables = {
        name: RowBlock(offsets, ids, _joined([out.tables[name] for out in outcomes]))
        for name in _uploaded(task, task.tables())
    }
    dense = {
        name: _joined([out.dense[name] for out in outcomes])
        for name in _uploaded(task, task.dense())
    }
    after = {name: _joined([out.local[name] for out in outcomes]) for name in task.locals()}
    extras = {
        name: _joined([out.extras[name] for out in outcomes])
        for name in (outcomes[0].extras if outcomes else ())
    }
    loss = _joined([out.loss for out in outcomes])
    if np.any(np.diff(order) < 0):
        back = np.argsort(order)
        tables = {name: block_back(block, order) for name, block in tables.items()}
        dense = {name: change[back] for name, change in dense.items()}
        extras = {name: value[back] for name, value in extras.items()}
        restored = layout.restored(order)
        after = {n: after[n][restored[spec.axis or ""]] for n, spec in task.locals().items()}
        loss = loss[back]
    weight = _examples(shard)
    metrics = {"loss": loss, "examples": weight}
    return UpdateBatch(round, shard.client_ids, weight, tables, dense, metrics, extras), after


def _examples(shard: Shard) -> FloatArray:
    """float64 [c]: train items of each client."""
    return np.bincount(
        shard.client_of_user(), weights=shard.train.lengths, minlength=shard.n_clients
    )


def _step_bytes(task: ClientTask, shard: Shard) -> IntArray:
    """Return what a step of each client takes of `_CHUNK_BYTES`, int64 [c]."""
    train, specs = task.train, task.specs()
    positives = shard.train.lengths
    if train.batch_size != "full":
        positives = np.minimum(positives, int(train.batch_size))
    if task.model.window is not None:
        positives = np.minimum(positives, task.model.window)
    pairs = positives * (1 + train.negatives) + task.personalization.random_rows
    row = sum(int(np.prod(specs[name].shape)) for name in task.tables())
    dense = sum(int(np.prod(specs[name].shape)) for name in task.dense())
    of_client = np.bincount(shard.client_of_user(), pairs, shard.n_clients)
    itemsize = np.dtype(task.dtype).itemsize
    return (itemsize * (row * of_client + dense / _DENSE_SHARE)).astype(np.int64)


def _uploaded(task: ClientTask, names: tuple[str, ...]) -> list[str]:
    return [f"{n}/{kind}" if kind else n for n in names for kind in ("", *task.client_rule.up)]


def _remembered(layout: Layout, rows: IntArray, local: Mapping[str, torch.Tensor]) -> Ragged | None:
    if SEEN_ITEMS not in local:
        return None
    mine = offsets_of(np.diff(layout.offsets["seen_item"])[rows])
    return seen_items(mine, local[SEEN_ITEMS].numpy())


def _tensor(values: FloatArray, dtype: torch.dtype) -> torch.Tensor:
    """A copy; whole numbers stay what they are."""
    copied = torch.from_numpy(np.array(values))
    return copied.to(dtype) if copied.is_floating_point() else copied


def tensors_of(params: Params, dtype: str) -> dict[str, torch.Tensor]:
    """Copy arrays to tensors of a type.

    Args:
        params: The arrays.
        dtype: ``float32`` or ``float64``.
    """
    kind = torch.float64 if dtype == "float64" else torch.float32
    return {name: torch.from_numpy(np.array(value)).to(kind) for name, value in params.items()}


def frozen_items_of(
    task: ClientTask, shard: Shard, table: torch.Tensor, unit_item_vectors: torch.Tensor | None
) -> FrozenItems:
    """Return the frozen global table, for the users of a shard.

    Args:
        task: model and personalization.
        shard: the clients.
        table: float [n_items, d], the global item table.
        unit_item_vectors: what `Personalization.unit_item_vectors` made of it.
    """
    return FrozenItems(
        table=table,
        unit_item_vectors=unit_item_vectors,
        history=task.personalization.history(shard, task.seed),
        positives=positives_of_clients(shard),
        clients=shard.client_of_user(),
    )


def _joined(parts: list[torch.Tensor]) -> FloatArray:
    return np.asarray(torch.cat(parts).numpy()) if parts else np.zeros(0, np.float32)
