"""Training and ranking for the clients of a node: chunk by chunk, from and to plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch

from fedrec.aggregation import Summing
from fedrec.errors import ConfigError, MissingExtra
from fedrec.personalization.base import Anchor, View
from fedrec.training.batch import Work, plan_work, positives_of_clients
from fedrec.training.chunks import Layout, block_back, in_chunks
from fedrec.training.history import latest
from fedrec.training.kernel import Outcome, train_chunk
from fedrec.training.method import Method, has_machine_code
from fedrec.training.ranked import BlockRanking
from fedrec.training.remembered import remembered_rows, room
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

__all__ = ["kernel_of", "train_clients", "user_scorer"]


def kernel_of(method: Method) -> Literal["compiled", "reference", "vmap", "loop"]:
    """Which kernel trains a method.

    ``compiled`` and ``reference`` give the same bits whichever clients are trained together;
    ``loop`` too, as each client is alone; ``vmap`` gives them to rounding.

    Raises:
        ConfigError: If machine code is asked for and there is none for the method, or the model
            looks at the order of items but is ``csr``.
        MissingExtra: If there is, but numba is not installed.
    """
    asked, model = method.train.kernel, method.model
    if model.batching == "csr" and model.window is not None:
        raise ConfigError(
            f"model: {type(model).__name__} has a window but is 'csr'; declare batching = 'vmap' "
            "or 'loop'"
        )
    if asked == "reference" or (asked == "auto" and not has_machine_code(method)):
        return "reference" if model.batching == "csr" else model.batching
    if not has_machine_code(method):
        raise ConfigError(
            "train.kernel: there is no machine code for this model and personalization; "
            "write 'auto' or 'reference'"
        )
    if find_spec("numba") is None:
        raise MissingExtra("numba, which train.kernel: reference does without,", "sim")
    return "compiled"


def train_clients(
    method: Method,
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
        method: model, personalization, optimisers.
        shard: the clients that train.
        params: the global parameters, float32, and what the strategy sent beside them.
        local: the local parameters of these clients, in their order (see `train_chunk`).
        round: the round.
        chunk: clients in one computation; changes no bit, but for ``vmap`` models; halved where
            it does not fit in memory.
        popularity: int64 [n_items], weights for popularity sampling.
        summing: How changed rows will be summed, if nobody wants to see them before; the compiled
            kernel then sums them itself, others do not care.

    Returns:
        The updates, and the new local parameters in the same order.

    Raises:
        EngineError: If a client does not fit in memory even alone.
    """
    if kernel_of(method) == "compiled":
        from fedrec.training.compiled import train_compiled

        return train_compiled(method, shard, params, local, round, popularity, summing)
    tensors = _tensors(params, method.dtype)
    directions = method.personalization.directions(tensors["item"])
    layout = _layout(method, shard)

    def train(rows: IntArray) -> tuple[Work, Outcome]:
        part = shard.take(rows)
        mine = {
            name: _tensor(local[name][layout.at(spec.per or "client", rows)], tensors["item"].dtype)
            for name, spec in method.locals().items()
        }
        work = plan_work(
            part,
            method.train,
            method.seed,
            round,
            method.protocol,
            popularity,
            method.personalization.random_rows,
            _remembered(layout, rows, mine),
            method.model.window,
        )
        anchor = _anchor(method, part, tensors["item"], directions)
        return work, train_chunk(method, work, anchor, tensors, mine)

    size = 1 if method.model.batching == "loop" else chunk
    order = np.arange(shard.n_clients, dtype=np.int64)
    if method.model.batching == "vmap":
        order = np.argsort(-_examples(shard), kind="stable")
    trained = in_chunks(order, size, train, shard)
    return _merge(method, shard, round, layout, order, trained)


def _merge(
    method: Method,
    shard: Shard,
    round: int,
    layout: Layout,
    order: IntArray,
    trained: list[tuple[Work, Outcome]],
) -> tuple[UpdateBatch, dict[str, FloatArray]]:
    """The results of clients that were trained in some order, in their own."""
    works, outcomes = [work for work, _ in trained], [outcome for _, outcome in trained]
    ids = np.concatenate([work.slot_items for work in works] or [np.zeros(0, np.int64)])
    slots = [np.diff(work.slot_offsets) for work in works]
    offsets = offsets_of(np.concatenate(slots or [np.zeros(0, np.int64)]))
    tables = {
        name: RowBlock(offsets, ids, _joined([out.tables[name] for out in outcomes]))
        for name in _uploaded(method, method.tables())
    }
    dense = {
        name: _joined([out.dense[name] for out in outcomes])
        for name in _uploaded(method, method.dense())
    }
    after = {name: _joined([out.local[name] for out in outcomes]) for name in method.locals()}
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
        per = {name: spec.per or "client" for name, spec in method.locals().items()}
        after = {name: value[layout.back(per[name], order)] for name, value in after.items()}
        loss = loss[back]
    weight = _examples(shard)
    metrics = {"loss": loss, "examples": weight}
    return UpdateBatch(round, shard.client_ids, weight, tables, dense, metrics, extras), after


def _examples(shard: Shard) -> FloatArray:
    """float64 [c]: train items of each client."""
    return np.bincount(
        shard.client_of_user(), weights=shard.train.lengths, minlength=shard.n_clients
    )


def _uploaded(method: Method, names: tuple[str, ...]) -> list[str]:
    return [f"{n}/{kind}" if kind else n for n in names for kind in ("", *method.half.up)]


def _remembered(layout: Layout, rows: IntArray, local: Mapping[str, torch.Tensor]) -> Ragged | None:
    if "touched/items" not in local:
        return None
    mine = offsets_of(np.diff(layout.offsets["touched"])[rows])
    return remembered_rows(mine, local["touched/items"].numpy())


def user_scorer(
    method: Method, shard: Shard, params: Params, local: Params
) -> Callable[[IntArray], dict[View, torch.Tensor]]:
    """A function that scores the whole catalogue for some users, with their own parameters.

    Args:
        method: model and personalization.
        shard: the clients.
        params: the global parameters.
        local: the local parameters of these clients, in their order.

    Returns:
        From user rows of the shard, int64 [b], to float [b, n_items] per view.
    """
    tensors = _tensors(params, method.dtype)
    dtype = tensors["item"].dtype
    values = {name: torch.from_numpy(np.array(v)).to(dtype) for name, v in local.items()}
    directions = method.personalization.directions(tensors["item"])
    anchor = _anchor(method, shard, tensors["item"], directions)
    state = method.personalization.state(tensors["item"].shape[1])
    history = _latest_items(method, shard)

    def of_users(users: IntArray) -> dict[View, torch.Tensor]:
        ranking = BlockRanking(method, tensors, values, anchor.clients, users, history)
        at = torch.from_numpy(users)
        mine = {n: values[n] if s.per == "row" else values[n][at] for n, s in state.items()}
        return method.personalization.rank(anchor, mine, ranking)

    return of_users


def _latest_items(method: Method, shard: Shard) -> Ragged | None:
    """One row per user row: the items that a model with a window ranks from, oldest first."""
    if method.model.window is None:
        return None
    order = latest(shard, method.model.window - 1)
    return Ragged(order.offsets, shard.train.values[order.values])


def _tensor(values: FloatArray, dtype: torch.dtype) -> torch.Tensor:
    """A copy; whole numbers stay what they are."""
    copied = torch.from_numpy(np.array(values))
    return copied.to(dtype) if copied.is_floating_point() else copied


def _tensors(params: Params, dtype: str) -> dict[str, torch.Tensor]:
    kind = torch.float64 if dtype == "float64" else torch.float32
    return {name: torch.from_numpy(np.array(value)).to(kind) for name, value in params.items()}


def _anchor(
    method: Method, shard: Shard, table: torch.Tensor, directions: torch.Tensor | None
) -> Anchor:
    return Anchor(
        table=table,
        directions=directions,
        history=method.personalization.history(shard, method.seed),
        positives=positives_of_clients(shard),
        clients=shard.client_of_user(),
    )


def _layout(method: Method, shard: Shard) -> Layout:
    """Where the local values of the clients lie."""
    return Layout(
        {
            "user": shard.client_offsets,
            "client": np.arange(shard.n_clients + 1, dtype=np.int64),
            "row": positives_of_clients(shard).offsets,
            "touched": room(shard, method.train, method.personalization.random_rows),
        }
    )


def _joined(parts: list[torch.Tensor]) -> FloatArray:
    return np.asarray(torch.cat(parts).numpy()) if parts else np.zeros(0, np.float32)
