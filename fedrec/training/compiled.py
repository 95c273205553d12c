"""The compiled road of `train_clients`: the same values from machine code, to rounding."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from fedrec.data.negatives import pool_excluded, popularity_negatives
from fedrec.personalization.plgc import PLGC
from fedrec.seeds import Purpose, bits
from fedrec.training import jit
from fedrec.training.batch import batch_steps
from fedrec.training.method import Method
from fedrec.types import FloatArray, IntArray, Params, RowBlock, Shard, UpdateBatch

__all__ = ["train_compiled"]


def train_compiled(
    method: Method,
    shard: Shard,
    params: Params,
    local: Params,
    round: int,
    popularity: IntArray | None = None,
) -> tuple[UpdateBatch, dict[str, FloatArray]]:
    """`fedrec.training.clients.train_clients`, compiled; arguments and results are its.

    Sums of products go through BLAS: with one thread its bits depend on the shapes alone, which
    are those of one client.
    """
    train, optimizer, own = method.train, method.train.local_optimizer, method.personalization
    kind = np.dtype(method.dtype)
    table = np.ascontiguousarray(params["item"], kind)
    after = {name: np.array(value, kind) for name, value in local.items()}
    plgc = own if isinstance(own, PLGC) else PLGC()
    history = own.history(shard, method.seed)
    z = np.empty((0, table.shape[1]), kind)
    if isinstance(own, PLGC):
        directions = own.directions(torch.from_numpy(table))
        assert directions is not None
        z = np.ascontiguousarray(directions.numpy())
    nothing, none = np.empty((0, 0), kind), np.empty(0, kind)
    adam = optimizer.name == "adam"
    data = (
        jit.Data(
            n_items=shard.n_items,
            client_offsets=shard.client_offsets,
            offsets=shard.train.offsets,
            items=np.ascontiguousarray(shard.train.values),
            negatives=_negatives(method, shard, round, popularity),
            step=_steps(method, shard, round),
            table=table,
            directions=z,
            history_offsets=history.offsets,
            history=np.ascontiguousarray(history.values),
        ),
        jit.Local(
            users=after["user"],
            first=after["user/first"] if adam else nothing,
            second=after["user/second"] if adam else nothing,
            steps=after["user/steps"] if adam else none,
            share=after["lambda"] if isinstance(own, PLGC) else none,
        ),
        jit.Settings(
            bce=train.loss == "bce",
            mean=train.reduction == "mean",
            item_lr=train.item_lr,
            adam=adam,
            lr=optimizer.lr,
            beta1=optimizer.beta1,
            beta2=optimizer.beta2,
            epsilon=optimizer.epsilon,
            decay=train.weight_decay,
            branch=isinstance(own, PLGC),
            joint=plgc.mode == "joint",
            tau=plgc.tau,
            beta=plgc.beta,
            balance=jit.BALANCES[plgc.balance],
            ema=plgc.ema,
            decorrelation=plgc.decorrelation if isinstance(own, PLGC) else 0.0,
        ),
    )
    with _controller().limit(limits=1, user_api="blas"):
        slot_offsets, ids, change, loss = jit.train(*data)
    weight = np.bincount(
        shard.client_of_user(), weights=shard.train.lengths, minlength=shard.n_clients
    )
    update = UpdateBatch(
        round,
        shard.client_ids,
        weight,
        {"item": RowBlock(slot_offsets, ids, change)},
        {},
        {"loss": loss, "examples": weight},
    )
    return update, after


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def _negatives(
    method: Method, shard: Shard, round: int, popularity: IntArray | None
) -> np.ndarray[tuple[int, int, int], np.dtype[np.int32]]:
    excluded = pool_excluded(shard, method.protocol)
    k, epochs = method.train.negatives, method.train.local_epochs
    if popularity is None:
        drawn: np.ndarray[tuple[int, int, int], np.dtype[np.int32]] = jit.draw_uniform(
            method.seed,
            int(Purpose.NEGATIVES),
            round,
            np.ascontiguousarray(shard.user_ids),
            shard.train.offsets,
            excluded.offsets,
            np.ascontiguousarray(excluded.values),
            shard.n_items,
            k,
            epochs,
        )
        return drawn
    n, user = shard.train.lengths, shard.train.owners()
    within = np.arange(len(user), dtype=np.int64) - shard.train.offsets[:-1][user]
    owner = np.repeat(user, k)
    found = np.empty((epochs, len(user), k), np.int32)
    for epoch in range(epochs):
        draw = ((epoch * n[user] + within)[:, None] * k + np.arange(k)).ravel()
        hashed = bits(method.seed, Purpose.NEGATIVES, round, shard.user_ids[owner], draw)
        found[epoch] = popularity_negatives(hashed, owner, excluded, popularity).reshape(-1, k)
    return found


def _steps(method: Method, shard: Shard, round: int) -> IntArray:
    return np.stack(
        [
            batch_steps(shard, method.train.batch_size, method.seed, round, epoch)
            for epoch in range(method.train.local_epochs)
        ]
    )
