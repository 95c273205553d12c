"""Local training of many clients in one computation, or of one; the same code and the same bits.

Clients share no trainable value: each has its own slots of the working copy, its own rows of the
local parameters, its own copy of the dense ones. So the gradient of the summed loss is each
client's own gradient, and plain SGD on the touched rows is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from fedrec.compute.batch import PairBatch
from fedrec.compute.operations import log_sigmoid, segment_sum
from fedrec.personalization.base import FrozenItems
from fedrec.training.client_rule import ClientUpdate
from fedrec.training.client_state import ClientState
from fedrec.training.forward import Forward
from fedrec.training.optimizers import step as local_step
from fedrec.training.plan import Epoch, TrainingPlan
from fedrec.training.task import ClientTask

__all__ = ["Outcome", "train_chunk"]

Tensor: TypeAlias = "torch.Tensor"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What training some clients gives.

    Args:
        tables: per item table, and what is uploaded beside it, float [t, *shape]: the change of
            each slot.
        dense: per dense global parameter, likewise, float [c, *shape]: the change.
        local: all local parameters, after the round.
        loss: float64 [c], the loss summed over the positives of the last local epoch.
        extras: per name, float64 [c], see `fedrec.training.client_rule.ClientRule.extras`.
    """

    tables: Mapping[str, Tensor]
    dense: Mapping[str, Tensor]
    local: Mapping[str, Tensor]
    loss: Tensor
    extras: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class _State:
    tables: dict[str, Tensor]
    dense: dict[str, Tensor]
    local: dict[str, Tensor]


def train_chunk(
    task: ClientTask,
    work: TrainingPlan,
    frozen_items: FrozenItems,
    params: Mapping[str, Tensor],
    local: Mapping[str, Tensor],
) -> Outcome:
    """Train some clients for a round.

    Args:
        task: model, personalization, optimisers.
        work: the draws and the touched rows.
        frozen_items: the frozen table and the clients' positives.
        params: the global parameters: tables float [n_items, *shape], dense float [*shape]; and
            what the strategy sent beside them.
        local: the local parameters: per user [u, ...], per client [c, ...], per positive row
            [n_positives, ...].

    Returns:
        Changes of the global parameters and the new local ones.
    """
    row_items = torch.from_numpy(np.ascontiguousarray(work.row_items))
    n_clients = work.shard.n_clients
    frozen = {name: params[name][row_items] for name in task.tables()}
    start = {name: params[name].expand(n_clients, *params[name].shape) for name in task.dense()}
    by_row = {name for name, spec in task.locals().items() if spec.per == "row"}
    own = _slots_of_positives(work, frozen_items)
    state = _State(
        dict(frozen),
        {name: value.clone() for name, value in start.items()},
        {n: _spread(v, own, len(row_items)) if n in by_row else v for n, v in local.items()},
    )
    memory = ClientState.of(task, work, params, local)
    loss = torch.zeros(n_clients, dtype=torch.float64)
    for epoch in work.epochs:
        prepared = task.personalization.prepare(frozen_items, epoch.touched)
        loss = torch.zeros_like(loss)
        for number in range(epoch.steps):
            state, part = _step(task, work, epoch, number, frozen, start, state, prepared, memory)
            loss = loss + part
        forward = Forward(task, state.tables, state.dense, state.local, epoch.touched)
        state.local.update(
            task.personalization.after_epoch(
                state.tables["item"], frozen["item"], state.local, epoch.touched, prepared, forward
            )
        )
    change = state.tables["item"] - frozen["item"]
    state.local.update(task.personalization.after_round(change, state.local))
    moved = memory.finish({**state.tables, **state.dense}, {**frozen, **start})
    after = {n: state.local[n][own] if n in by_row else state.local[n] for n in local}
    return Outcome(
        tables=_uploads(frozen, moved),
        dense=_uploads(start, moved),
        local={**after, **memory.remember(work, moved, local)},
        loss=loss,
        extras=task.half.extras(memory.steps, task.train.optimizers),
    )


def _uploads(names: Iterable[str], moved: Mapping[str, ClientUpdate]) -> dict[str, Tensor]:
    found = {}
    for name in names:
        found[name] = moved[name].change
        found |= {f"{name}/{kind}": value for kind, value in moved[name].up.items()}
    return found


def _step(
    task: ClientTask,
    work: TrainingPlan,
    epoch: Epoch,
    number: int,
    frozen: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    state: _State,
    prepared: Mapping[str, Tensor],
    memory: ClientState,
) -> tuple[_State, Tensor]:
    """One SGD step of every client that has a step of this number."""
    shard, train = work.shard, task.train
    chosen = np.flatnonzero(epoch.step == number)
    touched, positive, negative = _of_step(epoch, chosen, shard.n_users)
    trainable = [n for n, s in task.specs().items() if s.role == "local" and s.trainable]
    leaves = _State(
        {name: value.detach().requires_grad_() for name, value in state.tables.items()},
        {name: value.detach().requires_grad_() for name, value in state.dense.items()},
        {
            name: value.detach().requires_grad_(name in trainable)
            for name, value in state.local.items()
        },
    )
    personalization = task.personalization
    rows = personalization.rows(leaves.tables["item"], frozen["item"], leaves.local, touched)
    forward = Forward(task, leaves.tables, leaves.dense, leaves.local, touched)
    per_positive = _LOSSES[train.loss](*forward.logits(rows, positive, negative, prepared))
    client = torch.from_numpy(epoch.client[chosen])
    user = torch.from_numpy(epoch.user[chosen])
    weights = _reduction(train.reduction, train.loss, client, negative.shape[1], shard.n_clients)
    total = (per_positive * weights.to(per_positive.dtype)).sum()
    if train.weight_decay > 0:
        for name in trainable:
            owner = user if task.specs()[name].per == "user" else client
            scale = _decay_scale(owner, weights, len(leaves.local[name]))
            squared = leaves.local[name].unsqueeze(-1).square().flatten(1).sum(-1)
            total = total + 0.5 * train.weight_decay * (scale.to(squared.dtype) * squared).sum()
    extra = personalization.loss(leaves.tables["item"], frozen["item"], leaves.local, touched)
    if extra is not None:
        total = total + extra

    wanted = {("table", n): v for n, v in leaves.tables.items()}
    wanted |= {("dense", n): v for n, v in leaves.dense.items()}
    wanted |= {("local", n): leaves.local[n] for n in trainable}
    found = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    gradients = {
        key: torch.zeros_like(value) if grad is None else grad
        for (key, value), grad in zip(wanted.items(), found, strict=True)
    }
    stepping = torch.zeros(shard.n_clients, dtype=torch.bool)
    stepping[client] = True
    for kind, values, starts in (
        ("table", state.tables, frozen),
        ("dense", state.dense, start),
    ):
        for name, pull in memory.pulls(values, starts, stepping):
            gradients[kind, name] = gradients[kind, name] + pull
    rates = train.optimizers
    after = _State(
        {n: v - rates.item.lr * gradients["table", n] for n, v in state.tables.items()},
        {n: v - rates.shared.lr * gradients["dense", n] for n, v in state.dense.items()},
        dict(state.local),
    )
    for name in trainable:
        owner = user if task.specs()[name].per == "user" else client
        present = torch.zeros(len(state.local[name]), dtype=torch.bool)
        present[owner] = True
        after.local.update(
            local_step(rates.private, name, state.local, gradients["local", name], present)
        )
    loss = segment_sum(per_positive.detach().double(), client, shard.n_clients)
    return after, loss


def _of_step(epoch: Epoch, chosen: np.ndarray, n_users: int) -> tuple[PairBatch, Tensor, Tensor]:
    positive, negative = epoch.positive[chosen], epoch.negative[chosen]
    if epoch.steps <= 1:
        return epoch.touched, torch.from_numpy(positive), torch.from_numpy(negative)
    # A client must not notice whether others have more steps than it, so extra rows count here too.
    here = np.zeros(n_users, bool)
    here[epoch.user[chosen]] = True
    parts = [positive, negative.ravel()]
    parts.append(epoch.extra[here[epoch.touched.users.numpy()[epoch.extra]]])
    if epoch.touched.history is not None:
        parts.append(epoch.touched.history.take(np.flatnonzero(here)).values)
    pairs = np.unique(np.concatenate(parts))
    return (
        epoch.touched.select(pairs, n_users),
        torch.from_numpy(np.searchsorted(pairs, positive)),
        torch.from_numpy(np.searchsorted(pairs, negative)),
    )


def _bce(positive: Tensor, negative: Tensor) -> Tensor:
    """Binary cross-entropy of a positive and its negatives: [p], [p, k] -> [p]."""
    return -log_sigmoid(positive) - log_sigmoid(-negative).sum(-1)


def _bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Bayesian personalised ranking: [p], [p, k] -> [p]; rendle2009bpr."""
    return -log_sigmoid(positive.unsqueeze(-1) - negative).sum(-1)


_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"bce": _bce, "bpr": _bpr}


def _reduction(reduction: str, loss: str, client: Tensor, k: int, n_clients: int) -> Tensor:
    """float64 [p]: the weight of each positive's loss; a mean is over the client's own rows."""
    if reduction == "sum":
        return torch.ones(len(client), dtype=torch.float64)
    rows = torch.bincount(client, minlength=n_clients) * (k + 1 if loss == "bce" else k)
    return 1.0 / rows.double()[client]


def _decay_scale(owner: Tensor, weights: Tensor, n: int) -> Tensor:
    """float64 [n]: positives of each owner times the weight that each has in the loss."""
    weight = torch.zeros(n, dtype=torch.float64)
    weight[owner] = weights
    return weight * torch.bincount(owner, minlength=n)


def _slots_of_positives(work: TrainingPlan, frozen_items: FrozenItems) -> Tensor:
    """int64 [r]: the slot of each positive row of the clients."""
    positives, n_items = frozen_items.positives, work.shard.n_items
    row_client = np.repeat(np.arange(work.shard.n_clients), np.diff(work.row_offsets))
    wanted = positives.owners() * n_items + positives.values
    return torch.from_numpy(np.searchsorted(row_client * n_items + work.row_items, wanted))


def _spread(value: Tensor, local_rows: Tensor, n_slots: int) -> Tensor:
    """A ``per: row`` parameter over the slots, 0 where the slot is no positive."""
    spread = value.new_zeros((n_slots, *value.shape[1:]))
    spread[local_rows] = value
    return spread
