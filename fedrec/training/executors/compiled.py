"""The compiled road of `train_clients`: the same values from machine code, to rounding."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from fedrec.aggregation.fixed_point import SCALE, fits, to_fixed
from fedrec.aggregation.reduce import Summing
from fedrec.data.negatives import check_rows_with_pool, pool_excluded, popularity_negatives
from fedrec.models.pfedrec import PFedRec
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.seeds import Purpose, bits
from fedrec.training.executors import numba as jit
from fedrec.training.executors.build import build
from fedrec.training.layout import capacity
from fedrec.training.task import ClientTask
from fedrec.types import (
    FloatArray,
    IntArray,
    Params,
    Ragged,
    RowBlock,
    RowSums,
    Shard,
    UpdateBatch,
)

__all__ = ["train_compiled"]

_WITHOUT = PLGC(balance="fixed")
"""Whatever else it says is not looked at."""


def train_compiled(
    task: ClientTask,
    shard: Shard,
    params: Params,
    local: Params,
    round: int,
    popularity: IntArray | None = None,
    summing: Summing | None = None,
    prebuilt: bool = True,
) -> tuple[UpdateBatch, dict[str, FloatArray]]:
    """`fedrec.training.clients.train_clients`, compiled; arguments and results are its.

    One more is ``prebuilt``: whether the kernel is loaded from the cache, where it is put if need
    be; False compiles it here (see `fedrec.training.executors.build`). With ``summing``, the
    changed rows are added up as soon as a client is trained, while they lie in the cache, and the
    update holds them in ``summed`` instead of ``tables``; in ``tables`` though where they cannot be
    added up, or are fewer than the items: a device with one user does not make sums of a whole
    catalogue.

    Sums of products go through BLAS: with one thread its bits depend on the shapes alone, which
    are those of one client.
    """
    if prebuilt:
        build(task.dtype)
    kind = np.dtype(task.dtype)
    table = _owned(params["item"], kind)
    after = {name: np.array(value, kind) for name, value in local.items()}
    mine = _local(task, after, table.shape[1])
    data = _data(task, shard, table, round, popularity)
    offsets, loss = np.zeros(shard.n_clients + 1, np.int64), np.zeros(shard.n_clients)
    weight = np.bincount(
        shard.client_of_user(), weights=shard.train.lengths, minlength=shard.n_clients
    )
    most = capacity(shard, task.train, data.extra)
    if most[-1] < len(table):
        summing = None
    sums = _sums(summing, weight, table)
    bound = int(most[-1] if summing is None else np.diff(most).max(initial=0))
    # Allocated here, because numpy asks the system for large pages.
    ids, change = np.empty(bound, np.int64), np.empty((bound, table.shape[1]), kind)
    with _blas().limit(limits=1) if isinstance(task.personalization, PLGC) else nullcontext():
        jit.train(data, mine, _settings(task, round), sums, ids, change, offsets, loss)
    tables, summed = {}, {}
    if summing is None:
        tables["item"] = RowBlock(offsets, ids[: offsets[-1]], change[: offsets[-1]])
    elif fits(
        float(sums.peak.max().view(np.float64)), float(sums.weight.max()), int(sums.counts.max())
    ):
        items = np.flatnonzero(sums.counts)
        summed["item"] = RowSums(
            items, sums.total[items], sums.heavy[items], int(sums.counts.sum())
        )
    else:  # Whoever adds up the changes one by one can tell what is wrong with them.
        return train_compiled(task, shard, params, local, round, popularity, None, prebuilt)
    _split(task, mine, after)
    metrics = {"loss": loss, "examples": weight}
    return UpdateBatch(round, shard.client_ids, weight, tables, {}, metrics, {}, summed), after


def _sums(summing: Summing | None, examples: FloatArray, table: FloatArray) -> jit.Sums:
    n, d = table.shape if summing is not None else (0, table.shape[1])
    how = summing or Summing()
    return jit.Sums(
        factor=how.factors(examples) * 2.0**SCALE,
        weight=to_fixed(how.weights(examples), "weight"),
        total=np.zeros((n, d), np.int64),
        heavy=np.zeros(n, np.int64),
        counts=np.zeros(n, np.int64),
        peak=np.zeros(d, np.int64),
    )


@cache
def _blas() -> ThreadpoolController:
    """Over the threads of products in machine code, which go through scipy at their first call."""
    importlib.import_module("scipy.linalg.cython_blas")
    return ThreadpoolController().select(user_api="blas")


def _owned(values: NDArray[Any], kind: Any = np.int64) -> NDArray[Any]:
    """Contiguous and writable: for each other kind of array there is another machine code."""
    return np.require(values, kind, ["C", "W"])


def _data(
    task: ClientTask, shard: Shard, table: FloatArray, round: int, popularity: IntArray | None
) -> jit.Data:
    own, train = task.personalization, task.train
    excluded = pool_excluded(shard, task.protocol)
    check_rows_with_pool(shard.n_items - excluded.lengths, np.flatnonzero(shard.train.lengths))
    z = np.empty((0, table.shape[1]), table.dtype)
    if isinstance(own, PLGC):
        unit_item_vectors = own.unit_item_vectors(torch.from_numpy(table))
        z = z if unit_item_vectors is None else _owned(unit_item_vectors.numpy(), table.dtype)
    given = np.empty((0, 0, train.negatives), np.int32)
    if popularity is not None:
        given = _by_popularity(task, shard, excluded, round, popularity)
    return jit.Data(
        n_items=shard.n_items,
        client_offsets=_owned(shard.client_offsets),
        users=_owned(shard.user_ids),
        offsets=_owned(shard.train.offsets),
        items=_owned(shard.train.values),
        excluded_offsets=_owned(excluded.offsets),
        excluded=_owned(excluded.values),
        given=given,
        k=train.negatives,
        extra=own.random_rows,
        table=table,
        directions=z,
    )


def _settings(task: ClientTask, round: int) -> jit.Settings:
    train, optimizer = task.train, task.train.optimizers.private
    own = task.personalization if isinstance(task.personalization, PLGC) else None
    plgc = own or _WITHOUT
    table = plgc.branch == "table"
    return jit.Settings(
        seed=task.seed,
        round=round,
        epochs=train.local_epochs,
        batch=0 if train.batch_size == "full" else int(train.batch_size),
        bce=train.loss == "bce",
        mean=train.reduction == "mean",
        item_lr=train.optimizers.item.lr,
        proximal=float(task.client_rule.proximal),
        bias=isinstance(task.model, PFedRec),
        rule=jit.Rule(
            adam=optimizer.name == "adam",
            lr=optimizer.lr,
            beta1=optimizer.beta1,
            beta2=optimizer.beta2,
            epsilon=optimizer.epsilon,
            decay=train.weight_decay,
        ),
        kernel=own is not None and not table,
        table=own is not None and table,
        joint=plgc.mode == "joint",
        tau=plgc.tau,
        beta=plgc.beta,
        balance=jit.BALANCES[plgc.balance],
        ema=plgc.ema,
        cap=plgc.history_cap or 0,
        persistence=plgc.persistence,
        decorrelation=plgc.decorrelation,
        cross=plgc.view == "cross" or (plgc.view == "auto" and table),
        gamma=plgc.gamma,
    )


def _vectors(task: ClientTask) -> tuple[str, ...]:
    """The private parameters that make up a user's vector, one after the other."""
    return ("head", "bias") if isinstance(task.model, PFedRec) else ("user",)


def _local(task: ClientTask, after: dict[str, FloatArray], d: int) -> jit.Local:
    kind = np.dtype(task.dtype)
    names = _vectors(task)
    adam = task.train.optimizers.private.name == "adam"

    def joined(part: str) -> FloatArray:
        if len(names) == 1:
            return after[names[0] + part]
        return np.concatenate([after[n + part].reshape(len(after[n]), -1) for n in names], axis=1)

    nothing = np.empty((0, 0), kind)
    return jit.Local(
        users=joined(""),
        first=joined("/first") if adam else nothing,
        second=joined("/second") if adam else nothing,
        steps=after[names[0] + "/steps"] if adam else np.empty(0, kind),
        share=after.get("lambda", np.empty(0, kind)),
        residual=after.get("residual", np.empty((0, d), kind)),
    )


def _split(task: ClientTask, mine: jit.Local, after: dict[str, FloatArray]) -> None:
    """Put a vector's parts back where they belong; one that has no parts was stepped in place."""
    names = _vectors(task)
    if len(names) == 1:
        return
    for part, whole in (("", mine.users), ("/first", mine.first), ("/second", mine.second)):
        if len(whole) > 0:
            after[names[0] + part] = np.ascontiguousarray(whole[:, :-1])
            after[names[1] + part] = np.ascontiguousarray(whole[:, -1])
    if len(mine.steps) > 0:
        after[names[1] + "/steps"] = mine.steps.copy()


def _by_popularity(
    task: ClientTask, shard: Shard, excluded: Ragged, round: int, popularity: IntArray
) -> np.ndarray[tuple[int, int, int], np.dtype[np.int32]]:
    """int32 [epochs, p, k], negatives in proportion to popularity."""
    k, epochs = task.train.negatives, task.train.local_epochs
    n, user = shard.train.lengths, shard.train.owners()
    within = np.arange(len(user), dtype=np.int64) - shard.train.offsets[:-1][user]
    owner = np.repeat(user, k)
    found = np.empty((epochs, len(user), k), np.int32)
    for epoch in range(epochs):
        draw = ((epoch * n[user] + within)[:, None] * k + np.arange(k)).ravel()
        hashed = bits(task.seed, Purpose.NEGATIVES, round, shard.user_ids[owner], draw)
        found[epoch] = popularity_negatives(hashed, owner, excluded, popularity).reshape(-1, k)
    return found
