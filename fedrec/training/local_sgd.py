"""Local training of some clients in one computation; alone or together, the same code.

Clients share no trainable value: each has its own local rows, its own private values, its own
copy of the dense parameters. So the gradient of the summed loss is each client's own gradient, and
plain SGD on the touched rows is exact. A step costs what its pairs cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from fedrec.compute.operations import gather, log_sigmoid, segment_sum
from fedrec.personalization.base import FrozenItems
from fedrec.training.client_rule import ClientUpdate
from fedrec.training.client_state import ClientState
from fedrec.training.forward import Forward
from fedrec.training.optimizers import step as private_step
from fedrec.training.plan import Owners, Step, TrainingPlan
from fedrec.training.task import ClientTask

__all__ = ["Outcome", "train_chunk"]

Tensor: TypeAlias = "torch.Tensor"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What training some clients gives.

    Args:
        tables: Per item table, and what is uploaded beside it, float [t, *shape]: the change of
            each local row.
        dense: Per dense shared parameter, likewise, float [c, *shape]: the change.
        local: All private parameters after the round.
        loss: float64 [c], the loss summed over the positives of the last local epoch.
        extras: Per name, float64 [c], see `fedrec.training.client_rule.ClientRule.extras`.
    """

    tables: Mapping[str, Tensor]
    dense: Mapping[str, Tensor]
    local: Mapping[str, Tensor]
    loss: Tensor
    extras: Mapping[str, Tensor]


def train_chunk(
    task: ClientTask,
    plan: TrainingPlan,
    frozen_items: FrozenItems,
    params: Mapping[str, Tensor],
    local: Mapping[str, Tensor],
) -> Outcome:
    """Train some clients for a round.

    Args:
        task: Model, personalization, optimizers.
        plan: The draws and the local rows.
        frozen_items: The frozen table and the clients' positives.
        params: The shared parameters: tables float [n_items, *shape], dense float [*shape]; and
            what the strategy sent beside them.
        local: The private parameters of the clients, as `fedrec.training.layout.Layout` says.

    Returns:
        Changes of the shared parameters and the new private ones.
    """
    chunk = _Chunk(task, plan, params, local)
    personalization = task.personalization
    loss = torch.zeros(plan.shard.n_clients, dtype=torch.float64)
    for epoch in plan.epochs:
        prepared = None
        if epoch.whole is not None:
            prepared = personalization.prepare(frozen_items, epoch.whole.pairs)
        loss = torch.zeros_like(loss)
        for step in epoch.steps:
            loss += chunk.train(step, prepared)
        if epoch.whole is not None:
            chunk.after_epoch(epoch.whole, prepared)
    return chunk.outcome(loss)


class _Chunk:
    """The parameters of some clients while they train; changed in place."""

    def __init__(
        self,
        task: ClientTask,
        plan: TrainingPlan,
        params: Mapping[str, Tensor],
        local: Mapping[str, Tensor],
    ) -> None:
        row_items = torch.from_numpy(plan.row_items)
        n_clients = plan.shard.n_clients
        self.task, self.plan, self.before = task, plan, local
        self.start = {n: params[n].index_select(0, row_items) for n in task.tables()}
        self.start |= {n: params[n].expand(n_clients, *params[n].shape) for n in task.dense()}
        self.shared = {n: self.start[n].clone() for n in task.tables()}
        self.shared |= {n: self.start[n] for n in task.dense()}
        self.private = {
            n: local[n].clone() if "/" not in n or n.rpartition("/")[0] in task.specs() else value
            for n, value in local.items()
        }
        self.own = tuple(n for n, s in task.specs().items() if s.scope == "private")
        added = task.personalization.state(params["item"].shape[1])
        self.added = tuple(added)
        # Plain training asks nothing of the values but to be trained.
        plain = task.client_rule.compiled and task.client_rule.proximal == 0
        self.memory = None if plain else ClientState.of(task, plan, params, local)

    def train(self, step: Step, prepared: Any) -> Tensor:
        """Make one step; return the loss of each client, float64 [c]."""
        task, personalization = self.task, self.task.personalization
        clients = step.owners["client"]
        everybody = len(clients.present) == self.plan.shard.n_clients
        leaves = self._leaves(step, everybody)
        forward = Forward(
            task,
            step,
            {n: leaves[n] for n in task.tables()},
            {n: leaves[n] for n in task.dense()},
            {n: leaves[n] for n in self.own},
        )
        work = leaves["item"]
        frozen = self._frozen(step)
        local = forward.of_pairs(self.added)
        rows = personalization.rows(work, frozen, local, step.pairs)
        of_scores = local if step.scored is None else forward.of_pairs(self.added, scored=True)
        index = step.pairs.index if step.scored is None else step.pairs.index[step.scored]
        base = forward.trained_scores(rows)
        score = personalization.score(base, of_scores, index, prepared)
        client, loss = self._loss(step, score)
        weights = self._weights(step, clients)
        total = (loss * weights.to(loss.dtype)[client]).sum()
        extra = personalization.loss(work, frozen, local, step.pairs)
        if extra is not None:
            total = total + extra
        wanted = [n for n, value in leaves.items() if value.requires_grad]
        found = torch.autograd.grad(total, [leaves[n] for n in wanted], allow_unused=True)
        self._apply(step, everybody, weights, leaves, dict(zip(wanted, found, strict=True)))
        per_client = segment_sum(loss.detach().double(), client, len(clients.present))
        result = torch.zeros(self.plan.shard.n_clients, dtype=torch.float64)
        result[torch.from_numpy(clients.present)] = per_client
        return result

    def after_epoch(self, whole: Step, prepared: Any) -> None:
        """Let the personalization set its values after an epoch."""
        with torch.no_grad():
            everybody = len(whole.owners["client"].present) == self.plan.shard.n_clients
            leaves = self._leaves(whole, everybody)
            forward = Forward(
                self.task,
                whole,
                {n: leaves[n] for n in self.task.tables()},
                {n: leaves[n] for n in self.task.dense()},
                {n: leaves[n] for n in self.own},
            )
            self.private.update(
                self.task.personalization.after_epoch(
                    leaves["item"],
                    self._frozen(whole),
                    forward.of_pairs(self.added),
                    {name: self.private[name] for name in self.added},
                    whole.pairs,
                    prepared,
                    forward,
                )
            )

    def outcome(self, loss: Tensor) -> Outcome:
        """Return what the round changed."""
        task, plan = self.task, self.plan
        if task.personalization.overrides("after_round"):
            positives = plan.positives
            at = plan.rows_of(positives.owners(), positives.values)
            change = self.shared["item"] - self.start["item"]
            change = torch.cat([change, change.new_zeros((1, change.shape[1]))])
            self.private.update(
                task.personalization.after_round(
                    change[torch.from_numpy(at)], {n: self.private[n] for n in self.added}
                )
            )
        if self.memory is None:
            changes = {n: value - self.start[n] for n, value in self.shared.items()}
            tables = {name: changes[name] for name in task.tables()}
            dense = {name: changes[name] for name in task.dense()}
            return Outcome(tables, dense, self.private, loss, {})
        updates = self.memory.finish(self.shared, self.start)
        return Outcome(
            tables=_uploads(task.tables(), updates),
            dense=_uploads(task.dense(), updates),
            local={**self.private, **self.memory.remember(plan, updates, self.before)},
            loss=loss,
            extras=task.client_rule.extras(self.memory.steps, task.train.optimizers),
        )

    def _leaves(self, step: Step, everybody: bool) -> dict[str, Tensor]:
        """Return the values that a step uses: per pair, per client of the step, per owner."""
        task, clients = self.task, torch.from_numpy(step.owners["client"].present)
        leaves = {}
        for name in task.tables():
            value = self.shared[name]
            leaves[name] = value if step.every_row else value.index_select(0, step.local_rows)
        for name in task.dense():
            value = self.shared[name]
            leaves[name] = value if everybody else value.index_select(0, clients)
        leaves = {name: value.detach().requires_grad_() for name, value in leaves.items()}
        for name in self.own:
            spec = task.specs()[name]
            present = torch.from_numpy(step.owners[str(spec.axis)].present)
            value = self.private[name].index_select(0, present)
            leaves[name] = value.detach().requires_grad_(spec.trainable)
        return leaves

    def _frozen(self, step: Step) -> Tensor:
        """Return the rows of the item table as the round began, float [q, d]."""
        start = self.start["item"]
        if step.every_row or not self.task.personalization.overrides("rows", "loss", "after_epoch"):
            return start
        return start.index_select(0, step.local_rows)

    def _loss(self, step: Step, score: Tensor) -> tuple[Tensor, Tensor]:
        """Return the position of the client and the loss of each score, or of each positive."""
        clients = torch.from_numpy(step.owners["client"].index)
        of_scores = clients if step.scored is None else clients[step.scored]
        if self.task.train.loss == "bce":
            positive, negative = step.is_positive.to(score.dtype), step.n_negative.to(score.dtype)
            return of_scores, -(positive * log_sigmoid(score) + negative * log_sigmoid(-score))
        # Bayesian personalised ranking; rendle2009bpr.
        ahead = gather(score, step.positive).unsqueeze(-1) - gather(score, step.negative)
        return of_scores[step.positive], -log_sigmoid(ahead).sum(-1)

    def _weights(self, step: Step, clients: Owners) -> Tensor:
        """Return the weight of each client's loss, float64 [c]; a mean is over its own rows."""
        train = self.task.train
        if train.reduction == "sum":
            return torch.ones(len(clients.present), dtype=torch.float64)
        rows = clients.positives * (train.negatives + (train.loss == "bce"))
        return torch.from_numpy(1.0 / np.maximum(rows, 1))

    def _apply(
        self,
        step: Step,
        everybody: bool,
        weights: Tensor,
        leaves: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor | None],
    ) -> None:
        """Step along the gradients."""
        task, clients = self.task, step.owners["client"].present
        terms: dict[str, Tensor] = {}
        if self.memory is not None:
            present = torch.zeros(self.plan.shard.n_clients, dtype=torch.bool)
            present[torch.from_numpy(clients)] = True
            terms = dict(self.memory.gradient_terms(self.shared, self.start, present))
        for name in (*task.tables(), *task.dense()):
            rate, gradient = task.rate(name), gradients[name]
            if name in task.dense() and self.shared[name] is self.start[name]:
                self.shared[name] = self.start[name].clone()
            value = self.shared[name]
            if gradient is not None:
                move = gradient * -rate
                if name in task.dense() and not everybody:
                    value.index_add_(0, torch.from_numpy(clients), move)
                elif name in task.dense() or step.every_row:
                    value += move
                else:
                    value.index_add_(0, step.local_rows, move)
            if name in terms:
                value -= rate * terms[name]
        for name in self.own:
            if not leaves[name].requires_grad:
                continue
            owners = step.owners[str(task.specs()[name].axis)]
            value, gradient = leaves[name].detach(), gradients[name]
            gradient = torch.zeros_like(value) if gradient is None else gradient
            if task.train.weight_decay > 0:
                scale = (
                    torch.from_numpy(owners.positives) * weights[torch.from_numpy(owners.clients)]
                )
                scale = (task.train.weight_decay * scale).to(value.dtype)
                gradient = gradient + scale.reshape(-1, *[1] * (value.dim() - 1)) * value
            at = torch.from_numpy(owners.present)
            private_step(task.train.optimizers.private, name, self.private, gradient, at)


def _uploads(names: Iterable[str], updates: Mapping[str, ClientUpdate]) -> dict[str, Tensor]:
    uploads = {}
    for name in names:
        uploads[name] = updates[name].change
        uploads |= {f"{name}/{kind}": value for kind, value in updates[name].up.items()}
    return uploads
