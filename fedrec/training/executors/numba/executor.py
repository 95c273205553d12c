"""The executor ``numba``: from the values of a round to the kernel's, and back."""

import importlib
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from fedrec.aggregation.fixed_point import SCALE, check_terms, to_fixed
from fedrec.aggregation.mix import rows_of
from fedrec.aggregation.reduce import Summing
from fedrec.aggregation.update import Mix, RowBlock, RowSums, UpdateBatch
from fedrec.compute.device import to_array
from fedrec.data.negatives import check_rows_with_pool, pool_excluded
from fedrec.models.mf import MatrixFactorization
from fedrec.models.pfedrec import PFedRec
from fedrec.personalization.base import NoPersonalization
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.ragged import Ragged
from fedrec.training.draws import capacity
from fedrec.training.executors.numba import kernel
from fedrec.training.executors.numba.kernel import Data, Local, Optimizer, Settings, Sums
from fedrec.training.executors.numba.transforms import check_largest, steps_of
from fedrec.training.initial_values import initial_local
from fedrec.training.settings import Train
from fedrec.training.task import ClientTask
from fedrec.transforms.base import Transform
from fedrec.types import FloatArray, Params, Shard


def train_numba(
    task: ClientTask,
    shard: Shard,
    params: Params,
    local: Params,
    round: int,
    summing: Summing | None = None,
    transforms: Sequence[Transform] = (),
    mix: Mix | None = None,
) -> tuple[UpdateBatch, dict[str, FloatArray]]:
    """Train clients for a round; see `fedrec.training.clients.train_clients`.

    With ``mix``, clients receive item tables of their own, of which the touched rows are formed
    before, all together.

    With ``summing``, the changed rows are added up as soon as a client is trained, while they lie
    in the cache, and the update holds them in ``summed`` instead of ``tables``; in ``tables``
    though where they are fewer than the items: a device with one user does not make sums of a
    catalogue. Before, the kernel does to them what ``transforms`` do.

    Sums of products go through BLAS: with one thread its bits depend on the shapes alone, which
    are those of one client.
    """
    assert shard.n_users == shard.n_clients
    dtype, examples = np.dtype(task.dtype), shard.examples()
    state, settings = _joined(task, local, dtype), _settings(task, round)
    most = capacity(shard, task)
    offsets, loss = np.zeros(shard.n_clients + 1, np.int64), np.zeros(shard.n_clients)
    if mix is not None:
        data = _data(task, shard, np.empty((0, *mix.bases.shape[2:]), dtype))
        ids = np.empty(most[-1], np.int64)
        kernel.touched(data, settings, ids, offsets)
        clients = np.repeat(np.arange(shard.n_clients), np.diff(offsets))
        table = _owned(rows_of(mix, clients, ids[: offsets[-1]]), dtype)
        data = data._replace(table=table, per_client=True)
    else:
        table = _owned(params["item"], dtype)
        data = _data(task, shard, table)
    if mix is not None or most[-1] < len(table):
        summing, transforms = None, ()
    sums = _sums(summing, examples, table)
    bound = int(most[-1] if summing is None else np.diff(most).max(initial=0))
    # Allocated here, because numpy asks the system for large pages.
    ids, change = np.empty(bound, np.int64), np.empty((bound, table.shape[1]), dtype)
    steps = steps_of(transforms, task.seed, round, shard.client_ids, change)
    with _blas().limit(limits=1) if settings.similarity else nullcontext():
        kernel.train(data, state, settings, sums, steps, ids, change, offsets, loss)
    tables, summed = {}, {}
    if summing is None:
        tables["item"] = RowBlock(offsets, ids[: offsets[-1]], change[: offsets[-1]])
    else:
        check_largest(transforms, steps)
        items, most_terms = np.flatnonzero(sums.counts), int(sums.counts.max())
        check_terms(float(sums.peak.max().view(np.float64)), "item", most_terms)
        check_terms(float(sums.weight.max()), "weight", most_terms)
        summed["item"] = RowSums(items, sums.total[items], sums.heavy[items], sums.uploaded)
    metrics = {"loss": loss, "examples": examples}
    if "loss_before" in task.measures:  # with one step it is the loss
        metrics["loss_before"] = loss / np.maximum(examples, 1)
    update = UpdateBatch(round, shard.client_ids, examples, tables, {}, metrics, {}, summed)
    return update, _split(task, state, local)


def _sums(summing: Summing | None, examples: FloatArray, table: FloatArray) -> Sums:
    n, d = table.shape if summing is not None else (0, table.shape[1])
    how = summing or Summing()
    return Sums(
        factor=how.factors(examples) * 2.0**SCALE,
        weight=to_fixed(how.weights(examples), "weight"),
        total=np.zeros((n, d), np.int64),
        heavy=np.zeros(n, np.int64),
        counts=np.zeros(n, np.int64),
        peak=np.zeros(d, np.int64),
        uploaded=np.zeros(len(examples), np.int64),
    )


@cache
def _blas() -> ThreadpoolController:
    """Over the threads of products in machine code, which go through scipy at their first call."""
    importlib.import_module("scipy.linalg.cython_blas")
    return ThreadpoolController().select(user_api="blas")


def _owned(values: NDArray[Any], dtype: Any = np.int64) -> NDArray[Any]:
    """Contiguous and writable: for each other kind of array there is another machine code."""
    return np.require(values, dtype, ["C", "W"])


def _data(task: ClientTask, shard: Shard, table: FloatArray) -> Data:
    excluded = pool_excluded(shard, task.protocol)
    check_rows_with_pool(shard.n_drawn - excluded.lengths, np.flatnonzero(shard.train.lengths))
    unit_vectors = task.personalization.unit_item_vectors(torch.as_tensor(table))
    nothing = np.empty((0, table.shape[1]), table.dtype)
    return Data(
        n_items=shard.n_items,
        n_drawn=shard.n_drawn,
        users=_owned(shard.user_ids),
        offsets=_owned(shard.train.offsets),
        items=_owned(shard.train.values),
        excluded_offsets=_owned(excluded.offsets),
        excluded=_owned(excluded.values),
        k=task.train.negatives,
        table=table,
        per_client=False,
        unit_vectors=nothing
        if unit_vectors is None
        else _owned(to_array(unit_vectors), table.dtype),
    )


def _settings(task: ClientTask, round: int) -> Settings:
    train, optimizers = task.train, task.optimizers(round)
    optimizer = optimizers.private
    personalized = isinstance(task.personalization, PLGC)
    # Without PLGC nothing of it is looked at.
    plgc = task.personalization if isinstance(task.personalization, PLGC) else PLGC()
    return Settings(
        seed=task.seed,
        round=round,
        epochs=train.local_epochs,
        batch=0 if train.batch_size == "full" else int(train.batch_size),
        mean=train.reduction == "mean",
        item_lr=optimizers.item.lr,
        proximal=float(task.client_rule.proximal),
        bias=isinstance(task.model, PFedRec),
        optimizer=Optimizer(
            adam=optimizer.name == "adam",
            lr=optimizer.lr,
            beta1=optimizer.beta1,
            beta2=optimizer.beta2,
            epsilon=optimizer.epsilon,
            decay=train.weight_decay,
        ),
        similarity=personalized,
        joint=plgc.mode == "joint",
        tau=plgc.tau,
        balanced=plgc.balance == "alignment",
        ema=plgc.ema,
        cap=plgc.history_cap or 0,
        decorrelation=plgc.decorrelation,
    )


def _names(task: ClientTask) -> tuple[str, ...]:
    """Return the private parameters that make up a user's vector, one after the other."""
    return ("head", "bias") if isinstance(task.model, PFedRec) else ("user",)


def _joined(task: ClientTask, local: Params, dtype: np.dtype[Any]) -> Local:
    """Return copies of the private parameters as the kernel has them."""
    n = len(local[_names(task)[0]])

    def vectors(suffix: str) -> FloatArray:
        columns = [local[name + suffix].reshape(n, -1) for name in _names(task)]
        return np.concatenate(columns, axis=1, dtype=dtype)

    adam = task.train.optimizers.private.name == "adam"
    return Local(
        users=vectors(""),
        first=vectors("/first") if adam else np.empty((0, 0), dtype),
        second=vectors("/second") if adam else np.empty((0, 0), dtype),
        steps=np.array(local[_names(task)[0] + "/steps"] if adam else [], dtype),
        weight=np.array(local.get("lambda", []), dtype),
    )


def _split(task: ClientTask, state: Local, local: Params) -> dict[str, FloatArray]:
    """Return the private parameters as the task has them."""
    after: dict[str, FloatArray] = {"lambda": state.weight} if "lambda" in local else {}
    start = 0
    for name in _names(task):
        shape = local[name].shape
        columns = slice(start, start + int(np.prod(shape[1:])))
        start = columns.stop
        vectors = {name: state.users}
        if len(state.first):
            vectors |= {f"{name}/first": state.first, f"{name}/second": state.second}
            after[f"{name}/steps"] = state.steps
        after |= {n: np.ascontiguousarray(v[:, columns]).reshape(shape) for n, v in vectors.items()}
    return after


def fill(dtype: str) -> None:
    """Compile the kernel for a type by training one client with it; in a process for that alone."""
    one = np.zeros(1, np.int64)
    item, nothing = Ragged(np.array([0, 1]), one), Ragged(np.array([0, 0]), one[:0])
    shard = Shard(4, one, item.offsets, one, item, nothing, nothing)
    model, plain = MatrixFactorization(embedding_dim=2), NoPersonalization()
    task = ClientTask(model, plain, Train(), 0, dtype=dtype)
    local = {name: initial_local(0, name, spec, one) for name, spec in task.stored_specs().items()}
    params = task.initial_globals(4)
    train_numba(task, shard, params, local, 1)
    mix = Mix(params["item"][None], np.ones((1, 1), np.float32))
    train_numba(task, shard, {}, local, 1, mix=mix)
