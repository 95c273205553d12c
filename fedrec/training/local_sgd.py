"""Local training of some clients in one computation; alone or together, the same code.

Clients share no trainable value: each has its own local rows, its own private values, its own
copy of the dense parameters. So the gradient of the summed loss is each client's own gradient, and
plain SGD on the touched rows is exact. A step costs what its pairs cost.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fedrec.compute.device import to_array
from fedrec.compute.operations import gather, log_sigmoid, segment_sum
from fedrec.errors import ConfigError, check_shapes, not_finite
from fedrec.models.check import UNTRAINED
from fedrec.personalization.base import FrozenItems
from fedrec.seeds import Purpose, bits
from fedrec.training.client_rule import ClientUpdate
from fedrec.training.client_state import ClientState
from fedrec.training.clipping import clients_of_owners, clipped
from fedrec.training.draws import positives_of_clients
from fedrec.training.forward import Forward, Rows, encode
from fedrec.training.micro_batches import Part, added_up, parts_of, whole
from fedrec.training.optimizers import gradient_of_rows, step_rows
from fedrec.training.plan import Step, TrainingPlan
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, RowBlock, UpdateBatch

Gradients: TypeAlias = Mapping[str, Tensor | None]
"""By the values of a step, by name, as `fedrec.training.clipping.clipped` says."""


def train_chunk(
    task: ClientTask,
    plan: TrainingPlan,
    frozen_items: FrozenItems,
    params: Mapping[str, Tensor],
    local: Mapping[str, Tensor],
) -> tuple[UpdateBatch, dict[str, FloatArray]]:
    """Train some clients for a round.

    Args:
        task: Model, personalization, optimizers.
        plan: The draws and the local rows.
        frozen_items: The frozen table and the clients' positives.
        params: The shared parameters: tables float [n_items, *shape], dense float [*shape]; and
            what the strategy sent beside them.
        local: The private parameters of the clients, as `fedrec.training.draws.Layout` says.

    Returns:
        The updates, with the loss summed over the positives of the last local epoch, and the new
        private parameters.
    """
    chunk = _Chunk(task, plan, frozen_items, params, local)
    loss = torch.zeros(plan.shard.n_clients, dtype=torch.float64)
    for chunk.epoch, epoch in enumerate(plan.epochs):
        prepared, loss = None, torch.zeros_like(loss)
        if epoch.every_pair is not None:
            prepared = task.personalization.prepare(frozen_items, epoch.every_pair.pairs)
        for number, step in enumerate(epoch.steps):
            chunk.train(step, number, prepared, loss)
        if epoch.every_pair is not None:
            chunk.after_epoch(epoch.every_pair, prepared)
    return chunk.outcome(loss)


class _Chunk:
    """The parameters of some clients while they train; changed in place."""

    def __init__(
        self,
        task: ClientTask,
        plan: TrainingPlan,
        frozen_items: FrozenItems,
        params: Mapping[str, Tensor],
        local: Mapping[str, Tensor],
    ) -> None:
        row_items, n_clients = torch.as_tensor(plan.rows.values), plan.shard.n_clients
        self.row_client = torch.as_tensor(plan.rows.owners())
        self.task, self.plan, self.frozen_items, self.epoch = task, plan, frozen_items, 0
        self.tables, self.dense = task.tables(), task.dense()
        self.start = {n: params[n].index_select(0, row_items) for n in self.tables}
        self.start |= {n: params[n].expand(n_clients, *params[n].shape) for n in self.dense}
        self.shared = dict(self.start)
        self.private = {name: value.clone() for name, value in local.items()}
        self.optimizers = task.optimizers(plan.round)
        # What is remembered of shared parameters starts anew in every round.
        self.optimizer_state = {
            name: self.optimizers.of(task.specs()[name]).initial_state(start)
            for name, start in self.start.items()
        }
        # Plain training asks nothing of the values but to be trained.
        plain = task.client_rule.plain and task.client_rule.proximal == 0
        self.state = None if plain else ClientState(task, plan, params, local)

    def train(self, step: Step, number: int, prepared: Any, loss: Tensor) -> None:
        """Make one step of an epoch; add to the loss of each client, float64 [c]."""
        train, weights = self.task.train, self._weights(step)
        if train.micro_batch is None:
            forward = self._forward(step, number)
            gradients = self._gradients(forward, prepared, weights, loss)
        else:
            parts = self._gradients_of_parts(step, number, prepared, weights, loss)
            gradients = added_up(step, self.task.specs(), parts)
        if train.clip_norm is not None:
            gradients = clipped(step, gradients, self.task.specs(), train.clip_norm)
        self._step_shared(step, gradients)
        self._step_private(step, gradients, weights)

    def _gradients_of_parts(
        self, step: Step, number: int, prepared: Any, weights: Tensor | None, loss: Tensor
    ) -> Iterator[tuple[Part, Gradients]]:
        """Yield the gradients of a step's micro-batches; their sum is that of the step."""
        task, size = self.task, self.task.train.micro_batch
        assert size is not None
        together = step.scored is not None or not task.model.overrides("loss")
        for index, part in enumerate(parts_of(step, size, together and step.asked is not None)):
            of_part = None if weights is None else weights[part.owners["client"]]
            forward = self._forward(part.step, number + index * 2**40)
            yield part, self._gradients(forward, prepared, of_part, loss, together=False)
        if task.personalization.overrides("loss"):
            # It is no sum over pairs, so it takes all of them at once.
            forward = self._forward(step, number)
            local = forward.of_pairs(task.added())
            of_all = task.personalization.loss(
                forward.mixed(), self._frozen(step), local, step.pairs
            )
            if of_all is not None:
                yield whole(step), _gradients(of_all, forward)

    def _gradients(
        self,
        forward: Forward,
        prepared: Any,
        weights: Tensor | None,
        loss: Tensor,
        together: bool = True,
    ) -> Gradients:
        """Return the gradients of the loss by the values of a step; add to each client's loss.

        Args:
            forward: The model on the pairs of the step.
            prepared: What the personalization prepared of the epoch.
            weights: Of each client's loss, float64 [c].
            loss: float64 [c], of all clients of the chunk.
            together: Whether these are all pairs of the step, which a personalization's own loss
                is of.
        """
        task, personalization, step = self.task, self.task.personalization, forward.step
        frozen, work = self._frozen(step), forward.mixed()
        local = forward.of_pairs(task.added())
        rows = personalization.rows(work, frozen, local, step.pairs)
        check_shapes(f"{task.personalized}: rows", {"": rows}, {"": work})
        of_scores, index = local, step.pairs.index
        if step.scored is not None:
            index = index[step.scored]
            of_scores = forward.of_pairs(task.added(), step.scored)
        result = forward.trained_on(rows)
        score = personalization.score(result, of_scores, index, prepared)
        has_loss = task.model.overrides("loss")
        if has_loss and score is not result:
            raise ConfigError(
                f"{task.personalized} changes the score, but the model {type(task.model).__name__} "
                "has a loss of its own, which does not use it; with PLGC set mode: decoupled or "
                "branch: table"
            )
        model = f"model {type(task.model).__name__}: {'loss' if has_loss else 'score'}"
        results = {model: result, f"{task.personalized}: score": score}
        for source, values in results.items():
            check_shapes(source, {"": values}, {"": step.is_positive})
            if not values.requires_grad:
                raise ConfigError(f"{source} {UNTRAINED}")
        client, losses = self._loss(step, score)
        total = losses if weights is None else losses * weights.to(losses.dtype)[client]
        total = total.sum()
        if together:
            of_all = personalization.loss(work, frozen, local, step.pairs)
            total = total if of_all is None else total + of_all
        if not math.isfinite(total.item()):
            for source, values in {f"{task.personalized}: rows": rows, **results}.items():
                if not values.isfinite().all():
                    raise not_finite(f"{source} is not finite", forward.values.values())
        present = torch.as_tensor(step.owners["client"].present)
        loss[present] += segment_sum(losses.detach().double(), client, len(present))
        return _gradients(total, forward)

    def after_epoch(self, every_pair: Step, prepared: Any) -> None:
        """Let the personalization set its values after an epoch."""
        with torch.no_grad():
            forward = self._forward(every_pair, None)
            changed = self.task.personalization.after_epoch(
                forward.mixed(),
                self._frozen(every_pair),
                forward.of_pairs(self.task.added()),
                {name: self.private[name] for name in self.task.added()},
                every_pair.pairs,
                prepared,
                forward,
            )
            self._set_added("after_epoch", changed)

    def outcome(self, loss: Tensor) -> tuple[UpdateBatch, dict[str, FloatArray]]:
        """Return what the round changed."""
        task, plan = self.task, self.plan
        if task.personalization.overrides("after_round"):
            positives = positives_of_clients(plan.shard)
            at = torch.as_tensor(plan.rows.find(positives.owners(), positives.values))
            change = (self._mixed(self.shared) - self._mixed(self.start))[at]
            change[at < 0] = 0
            added = {n: self.private[n] for n in task.added()}
            self._set_added("after_round", task.personalization.after_round(change, added))
        if self.state is None:
            updates = {n: ClientUpdate(v - self.start[n]) for n, v in self.shared.items()}
            extras: Mapping[str, Tensor] = {}
        else:
            updates = dict(self.state.finish(self.shared, self.start))
            self.private |= self.state.remember(updates)
            extras = task.client_rule.extras(self.state.steps, self.optimizers)
        rows, examples = plan.rows, plan.shard.examples()
        tables = _uploads(self.tables, updates)
        update = UpdateBatch(
            round=plan.round,
            client_ids=plan.shard.client_ids,
            weight=examples,
            tables={n: RowBlock(rows.offsets, rows.values, v) for n, v in tables.items()},
            dense=_uploads(self.dense, updates),
            metrics={"loss": to_array(loss), "examples": examples},
            extras={name: to_array(value) for name, value in extras.items()},
        )
        return update, {name: to_array(value) for name, value in self.private.items()}

    def _set_added(self, method: str, changed: Mapping[str, Tensor]) -> None:
        """Set the personalization's parameters that one of its methods returned."""
        added = {name: self.private[name] for name in self.task.added()}
        check_shapes(f"{self.task.personalized}: {method}", {**added, **changed}, added)
        self.private |= changed

    def _forward(self, step: Step, number: int | None) -> Forward:
        """Gather the values that a step uses: per pair, per client of the step, per owner.

        Args:
            step: The step.
            number: Of the step in its epoch, for dropout; None: nothing is dropped.
        """
        leaves, specs, plan = {}, self.task.specs(), self.plan
        for name in self.tables:
            value = self.shared[name]
            leaves[name] = value if step.every_row else value.index_select(0, step.local_rows)
        present = step.owners["client"].present
        clients = torch.as_tensor(present)
        for name in self.dense:
            leaves[name] = self.shared[name].index_select(0, clients)
        for name in self.task.private():
            owners = torch.as_tensor(step.owners[str(specs[name].axis)].present)
            leaves[name] = self.private[name].index_select(0, owners)
        trained = {n: v.detach().requires_grad_(specs[n].trainable) for n, v in leaves.items()}
        keys = None
        if number is not None and self.task.network is not None:
            ids = plan.shard.client_ids[present]
            draw = np.full(len(ids), self.epoch * 2**20 + number)
            hashed = bits(self.task.seed, Purpose.DROPOUT, plan.round, ids, draw)
            keys = torch.as_tensor(hashed.view(np.int64))
        return Forward(self.task, step, trained, keys)

    def _frozen(self, step: Step) -> Tensor:
        """Return what the personalization mixes, as the round began, float [q, d]."""
        if self.task.mixes_vectors:
            if not self.task.personalization.needs_frozen_items:
                return torch.zeros(len(step.local_rows), 0)
            return self.frozen_items.table.index_select(0, step.pairs.items)
        if "item" not in self.start:
            return torch.zeros(len(step.local_rows), 0)
        start = self.start["item"]
        return start if step.every_row else start.index_select(0, step.local_rows)

    def _mixed(self, shared: Mapping[str, Tensor]) -> Tensor:
        """Return what the personalization mixes, of all local rows, float [n, d]."""
        task, rows = self.task, self.plan.rows
        if not task.mixes_vectors:
            return shared["item"]
        present, items = np.flatnonzero(rows.lengths), torch.as_tensor(rows.values)
        of_rows = {name: shared[name] for name in self.tables}
        of_rows |= {name: table[items] for name, table in task.frozen_tables.items()}
        of_clients = {name: shared[name][torch.as_tensor(present)] for name in self.dense}
        owners = torch.as_tensor(rows.owners())
        every_row = Rows(
            rows.lengths[present], owners, items, of_rows, of_clients, network=task.network
        )
        return encode(task, every_row)

    def _loss(self, step: Step, score: Tensor) -> tuple[Tensor, Tensor]:
        """Return the position of the client and the loss of each score, or of each positive."""
        clients = torch.as_tensor(step.owners["client"].index)
        of_scores = clients if step.scored is None else clients[step.scored]
        if self.task.model.overrides("loss"):
            return of_scores, score
        if self.task.train.loss == "bce":
            positive, negative = step.is_positive.to(score.dtype), step.n_negative.to(score.dtype)
            return of_scores, -(positive * log_sigmoid(score) + negative * log_sigmoid(-score))
        # Bayesian personalised ranking; rendle2009bpr.
        assert step.asked is not None
        asked = step.asked if step.scored is None else torch.arange(len(score)).view_as(step.asked)
        scores = gather(score, asked)
        return of_scores[asked[:, 0]], -log_sigmoid(scores[:, :1] - scores[:, 1:]).sum(-1)

    def _weights(self, step: Step) -> Tensor | None:
        """Return the weight of each client's loss, float64 [c]; a mean is over its own rows."""
        train = self.task.train
        if train.reduction == "sum":
            return None
        rows = _positives(step, "client") * (train.negatives + (train.loss == "bce"))
        return torch.as_tensor(1.0 / np.maximum(rows, 1))

    def _step_shared(self, step: Step, gradients: Gradients) -> None:
        clients = torch.as_tensor(step.owners["client"].present)
        present = torch.zeros(self.plan.shard.n_clients, dtype=torch.bool)
        present[clients] = True
        terms: Mapping[str, Tensor] = {}
        if self.state is not None:
            terms = self.state.gradient_terms(self.shared, self.start, present)
        for name, value in self.shared.items():
            optimizer, gradient = self.optimizers.of(self.task.specs()[name]), gradients[name]
            by_row = name in self.tables
            at = step.local_rows if by_row else clients
            everywhere = step.every_row if by_row else len(clients) == len(value)
            if optimizer.plain and gradient is not None and everywhere:
                value = value + gradient * -optimizer.lr
            else:
                value = value.clone() if value is self.start[name] else value
                if optimizer.plain and gradient is not None:
                    value.index_add_(0, at, gradient * -optimizer.lr)
            if not optimizer.plain:
                # Also rows without gradient may move: by their momentum.
                rows = present[self.row_client].nonzero()[:, 0] if by_row else clients
                of_rows = gradient_of_rows(value, gradient, at, rows, terms.get(name))
                step_rows(optimizer, value, of_rows, self.optimizer_state[name], rows)
            elif name in terms:
                value -= optimizer.lr * terms[name]
            self.shared[name] = value

    def _step_private(
        self,
        step: Step,
        gradients: Gradients,
        weights: Tensor | None,
    ) -> None:
        train = self.task.train
        for name in self.task.private():
            if name not in gradients:
                continue
            axis = str(self.task.specs()[name].axis)
            at, gradient = torch.as_tensor(step.owners[axis].present), gradients[name]
            value = self.private[name].index_select(0, at)
            gradient = torch.zeros_like(value) if gradient is None else gradient
            if train.weight_decay > 0:
                scale = torch.as_tensor(_positives(step, axis))
                if weights is not None:
                    scale *= weights[clients_of_owners(step, axis)]
                scale = (train.weight_decay * scale).to(value.dtype)
                gradient = gradient + scale.reshape(-1, *[1] * (value.dim() - 1)) * value
            optimizer = self.optimizers.private
            state = {key: self.private[f"{name}/{key}"] for key in optimizer.state}
            step_rows(optimizer, self.private[name], gradient, state, at)


def _gradients(total: Tensor, forward: Forward) -> Gradients:
    """Return the gradients of a loss by all trainable values of a step; None: it has none."""
    leaves = {name: value for name, value in forward.values.items() if value.requires_grad}
    gradients = torch.autograd.grad(total, [*leaves.values()], allow_unused=True)
    return dict(zip(leaves, gradients, strict=True))


def _positives(step: Step, axis: str) -> FloatArray:
    """Return how many positives of a step each owner has, float64 [n]."""
    owners = step.owners[axis]
    n = len(owners.present)
    return np.bincount(owners.index, to_array(step.pairs.labels), n + 1)[:n]


def _uploads(names: Iterable[str], updates: Mapping[str, ClientUpdate]) -> dict[str, FloatArray]:
    uploads = {}
    for name in names:
        uploads[name] = to_array(updates[name].change)
        uploads |= {f"{name}/{kind}": to_array(value) for kind, value in updates[name].up.items()}
    return uploads
