"""Training and ranking for the clients of a node: chunk by chunk, from and to plain arrays."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedrec.aggregation.mix import clients_alike, rows_of, values_of
from fedrec.aggregation.reduce import Summing, joined
from fedrec.aggregation.update import Down, Mix, UpdateBatch
from fedrec.personalization.base import FrozenItems
from fedrec.ragged import offsets_of
from fedrec.training.blocks import Together, bounded_slices
from fedrec.training.draws import Layout, capacity, positives_of_clients, remembered_items
from fedrec.training.forward import encode_catalogue
from fedrec.training.local_sgd import train_chunk
from fedrec.training.plan import TrainingPlan, plan_training
from fedrec.training.task import ClientTask
from fedrec.transforms.base import Transform
from fedrec.types import FloatArray, IntArray, Params, Shard

_CHUNK_BYTES = 2**21
"""Item rows, or item vectors, of the pairs that are computed together: few enough to stay in the
cache."""

_DENSE_SHARE = 16
"""Dense and private parameters, and features, may take so many times as much: 32 MiB of each of the
few copies of a step."""

_COPIES = 6
"""As many times as its parameters a client takes while it trains, beside its optimizer."""


_FORMED_BYTES = 2**27
"""Rows of values of clients' own that are formed together."""


@dataclass(frozen=True, slots=True)
class _Planned:
    """What some clients train on: their plan, private parameters, and values of their own."""

    plan: TrainingPlan
    private: Params
    received: dict[str, FloatArray]


def train_clients(
    task: ClientTask,
    shard: Shard,
    params: Params,
    local: Params,
    round: int,
    chunk: int = 64,
    popularity: IntArray | None = None,
    summing: Summing | None = None,
    together: Together | None = None,
    own: Mapping[str, Mix] | None = None,
    transforms: Sequence[Transform] = (),
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
        together: Remembers how many clients fit in memory; None: nobody does.
        own: The shared parameters of which these clients, in their order, received different
            values; None: there are none.
        transforms: What numba does to rows before it sums them, see
            `fedrec.training.numba_coverage.transforms_in_numba`. What comes back as rows is not
            transformed.

    Returns:
        The updates, and the new private parameters in the same order.

    Raises:
        EngineError: If a client does not fit in memory even alone.
    """
    needs_tables = task.payload != "client" or task.needs_tables
    if is_numba := task.executor() == "numba":
        from fedrec.compute.numba_compiler import build
        from fedrec.training.executors.numba.executor import train_numba

        build(task.dtype)
    if own and (needs_tables or is_numba):
        trained, clients, layout = [], [], Layout.of(task, shard)
        for some, received, mixes in _parts(task, shard, params, own, needs_tables):
            at, part = layout.positions(some), shard.take(some)
            specs = task.stored_specs()
            before = {name: local[name][at[spec.axis or ""]] for name, spec in specs.items()}
            trained.append(
                train_numba(task, part, received, before, round, mix=mixes["item"])
                if mixes
                else train_clients(
                    task, part, received, before, round, chunk, popularity, together=together
                )
            )
            clients.append(some)
        return _in_order(task, shard, trained, np.concatenate(clients))
    if is_numba:
        return train_numba(task, shard, params, local, round, summing, transforms)
    with task.computing():
        together = training_together() if together is None else together
        return _train(task, shard, params, local, round, chunk, popularity, together, own or {})


def _parts(
    task: ClientTask, shard: Shard, params: Params, own: Mapping[str, Mix], needs_tables: bool
) -> Iterator[tuple[IntArray, Params, dict[str, Mix]]]:
    """Yield some clients at a time: int64 [c], the values that they share, and mixes of the others.

    Where whole tables are needed, these are clients that received the same values, and there are
    no mixes. Otherwise they are as many as rows may be formed for together.
    """
    if needs_tables:
        for alike, received in clients_alike(Down(params, own), shard.n_clients):
            yield alike, received, {}
        return
    row = np.dtype(task.dtype).itemsize * task.size(*task.tables())
    for part in bounded_slices(row * capacity(shard, task), _FORMED_BYTES):
        clients = np.arange(part.start, part.stop)
        yield clients, params, {name: mix.take(clients) for name, mix in own.items()}


def _in_order(
    task: ClientTask,
    shard: Shard,
    trained: Sequence[tuple[UpdateBatch, dict[str, FloatArray]]],
    clients: IntArray,
) -> tuple[UpdateBatch, dict[str, FloatArray]]:
    """Return what clients came to, in the order of the shard.

    Args:
        task: What was trained.
        shard: The clients.
        trained: Their updates and private parameters, some of them at a time.
        clients: int64 [c], the rows of the shard in the order in which they were trained.
    """
    specs = task.stored_specs()
    update = joined([update for update, _ in trained])
    private = {
        name: np.concatenate([values[name] for _, values in trained])
        for name in specs
        if name in trained[0][1]
    }
    if (np.diff(clients) > 0).all():  # they were trained in order
        return update, private
    back = np.argsort(clients)
    at = Layout.of(task, shard.take(clients)).positions(back)
    private = {name: values[at[specs[name].axis or ""]] for name, values in private.items()}
    return update.take(back), private


def _train(
    task: ClientTask,
    shard: Shard,
    params: Params,
    local: Params,
    round: int,
    chunk: int,
    popularity: IntArray | None,
    together: Together,
    own: Mapping[str, Mix],
) -> tuple[UpdateBatch, dict[str, FloatArray]]:
    """Train clients on torch; for the arguments see `train_clients`."""
    tensors = tensors_of(params, task.dtype)
    table = tensors.get("item", torch.zeros(shard.n_items, 0))
    if task.mixes_vectors and task.personalization.needs_frozen_items:
        table = encode_catalogue(task, tensors)
    unit_item_vectors = task.personalization.unit_item_vectors(table)
    layout = Layout.of(task, shard)

    def planned(cuts: Sequence[slice]) -> list[_Planned]:
        """Plan clients cut by cut, and form the values of their own for all cuts together."""
        every: list[_Planned] = []
        for rows in cuts:
            clients = np.arange(rows.start, rows.stop)
            subset, at = shard.take(clients), layout.positions(clients)
            before = {n: local[n][at[spec.axis or ""]] for n, spec in task.stored_specs().items()}
            remembered = remembered_items(task, subset, before)
            plan = plan_training(task, subset, round, popularity, remembered)
            every.append(_Planned(plan, before, {}))
        clients = np.concatenate([np.arange(rows.start, rows.stop) for rows in cuts])
        lengths = np.concatenate([each.plan.rows.lengths for each in every])
        items = np.concatenate([each.plan.rows.values for each in every])
        for name, mix in own.items():
            by_row, sizes = name in task.tables(), [each.plan.shard.n_clients for each in every]
            if by_row:
                sizes = [len(each.plan.rows.values) for each in every]
                values = rows_of(mix, np.repeat(clients, lengths), items)
            else:
                values = values_of(mix, clients)
            for each, part in zip(every, np.split(values, np.cumsum(sizes)[:-1]), strict=True):
                each.received[name] = part
        return every

    def train(rows: slice) -> tuple[UpdateBatch, dict[str, FloatArray]]:
        key = rows.start, rows.stop
        each = prepared.pop(key) if key in prepared else planned([rows])[0]
        frozen_items = frozen_items_of(task, each.plan.shard, table, unit_item_vectors)
        values = {**tensors, **tensors_of(each.received, task.dtype)}
        private = tensors_of(each.private, task.dtype)
        return train_chunk(task, each.plan, frozen_items, values, private, own)

    def named(row: int) -> str:
        users = slice(*shard.client_offsets[row : row + 2])
        return (
            f"client {shard.client_ids[row]} ({users.stop - users.start} users, "
            f"{shard.train.lengths[users].sum()} train items)"
        )

    memory = task.resources.memory
    budget = _CHUNK_BYTES if memory is None else memory // 2 // _COPIES
    cuts = bounded_slices(offsets_of(_step_bytes(task, shard)), budget, chunk)
    # To form values of their own, all base values are read: for as many clients as may be.
    row = np.dtype(task.dtype).itemsize * task.size(*task.tables())
    formed = row * capacity(shard, task)[[0, *(rows.stop for rows in cuts)]]
    prepared: dict[tuple[int, int], _Planned] = {}
    trained = []
    for at in bounded_slices(formed, _FORMED_BYTES if own else 0):
        keys = [(rows.start, rows.stop) for rows in cuts[at]]
        prepared |= zip(keys, planned(cuts[at]), strict=True)
        for rows in cuts[at]:
            trained += together.compute(rows, train, named)
    private = [values for _, values in trained]
    return joined([update for update, _ in trained]), {
        name: np.concatenate([values[name] for values in private]) for name in task.stored_specs()
    }


def training_together() -> Together:
    """Return what trains clients together, as many as fit."""
    advice = "lower train.batch_size, train.negatives or the size of the model"
    return Together("trained", "engine.chunk", advice)


def _step_bytes(task: ClientTask, shard: Shard) -> IntArray:
    """Return what a step of each client takes of `_CHUNK_BYTES`, or of the memory, int64 [c]."""
    train, window = task.train, task.model.window
    positives = shard.train.lengths
    if train.batch_size != "full":
        positives = np.minimum(positives, int(train.batch_size))
    if window is not None:
        positives = np.minimum(positives, window)
    pairs = positives * (1 + train.negatives) + task.personalization.random_rows
    of_client = np.bincount(shard.client_of_user(), pairs, shard.n_clients)
    states = len(train.optimizers.shared.state)
    copies, share = 1.0 + states, _DENSE_SHARE
    if task.resources.memory is not None:
        copies, share = 1.0 + states / _COPIES, 1
    dense = (copies * task.size(*task.dense()) + task.size(*task.private())) / share
    vectors = max(task.size(*task.tables()), task.encodes * task.width)
    row = vectors + task.size(*task.frozen()) / share
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
