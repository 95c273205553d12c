"""Local training of some clients in one computation; alone or together, the same code.

Clients share no trainable value: each has its own local rows, its own private values, its own
copy of the dense parameters. So the gradient of the summed loss is each client's own gradient, and
plain SGD on the touched rows is exact. A step costs what its pairs cost.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrec.aggregation.update import RowBlock, UpdateBatch
from fedrec.compute.device import to_array
from fedrec.compute.operations import segment_sum
from fedrec.errors import ConfigError, check_shapes, not_finite
from fedrec.models.check import UNTRAINED
from fedrec.personalization.base import FrozenItems, View
from fedrec.seeds import Purpose, bits
from fedrec.training.client_rule import ClientUpdate
from fedrec.training.clipping import clipped
from fedrec.training.draws import positives_of_clients
from fedrec.training.forward import Forward, Rows, encode
from fedrec.training.local_values import Gradients, LocalValues
from fedrec.training.losses import losses_of, weights_of
from fedrec.training.micro_batches import MicroBatch, parts_of, summed_gradients, whole_step
from fedrec.training.plan import Epoch, Step, TrainingPlan
from fedrec.training.task import ClientTask
from fedrec.training.views import forward_in_view, penalties
from fedrec.types import FloatArray, IntArray

_NOT_FINITE_IN_FP16 = (
    "is not finite in fp16, which has no number above 65504; set engine.precision: bf16"
)


def train_chunk(
    task: ClientTask,
    plan: TrainingPlan,
    frozen_items: FrozenItems,
    params: Mapping[str, Tensor],
    local: Mapping[str, Tensor],
    own: Collection[str] = (),
) -> tuple[UpdateBatch, dict[str, FloatArray]]:
    """Train some clients for a round.

    Args:
        task: Model, personalization, optimizers.
        plan: The draws and the local rows.
        frozen_items: The frozen table and the clients' positives.
        params: The shared parameters: tables float [n_items, *shape], dense float [*shape]; and
            what the strategy sent beside them.
        local: The private parameters of the clients, as `fedrec.training.draws.Layout` says.
        own: Names of shared parameters of which clients received different values. Of these,
            ``params`` holds the local rows of tables, and of dense ones a value per client.

    Returns:
        The updates, with the loss summed over the positives of the last local epoch, and the new
        private parameters.
    """
    values = LocalValues(task, plan, params, local, own)
    chunk = _Chunk(task, plan, frozen_items, values)
    loss = before = torch.zeros(plan.shard.n_clients, dtype=torch.float64)
    for epoch in plan.epochs:
        chunk.begin(epoch)
        prepared, loss = None, torch.zeros_like(loss)
        if epoch.every_pair is not None:
            prepared = task.personalization.prepare(frozen_items, epoch.every_pair.pairs)
        if epoch is plan.epochs[0]:
            # A single step has the loss at the received values itself.
            asked = "loss_before" in task.measures and len(epoch.steps) > 1
            before = torch.zeros_like(loss) if asked else loss
            for number, step in enumerate(epoch.steps if asked else ()):
                chunk.train(step, number, prepared, before, moves=False)
        for number, step in enumerate(epoch.steps):
            chunk.train(step, number, prepared, loss)
        if epoch.every_pair is not None:
            chunk.after_epoch(epoch.every_pair, prepared)
    return chunk.outcome(loss, before)


class _Chunk:
    """Some clients while they train."""

    def __init__(
        self,
        task: ClientTask,
        plan: TrainingPlan,
        frozen_items: FrozenItems,
        values: LocalValues,
    ) -> None:
        self.task, self.plan, self.frozen_items = task, plan, frozen_items
        self.tables, self.dense = task.tables(), task.dense()
        self.values = values
        self.epoch, self.views = 0, tuple[View, ...]()

    def begin(self, epoch: Epoch) -> None:
        """Begin an epoch, and perhaps a phase."""
        self.epoch, self.views = epoch.number, epoch.phase.views
        self.values.begin(epoch.phase)

    def train(
        self, step: Step, number: int, prepared: Any, loss: Tensor, moves: bool = True
    ) -> None:
        """Make one step of an epoch; add to the loss of each client, float64 [c].

        Args:
            step: The step.
            number: Of the step in its epoch.
            prepared: What the personalization prepared of the epoch.
            loss: What is added to.
            moves: Whether values are stepped.
        """
        train, weights = self.task.train, weights_of(self.task, step)
        if train.micro_batch is None:
            forward = self._forward(step, number)
            gradients = self._gradients(forward, prepared, weights, loss)
        else:
            parts = self._gradients_of_parts(step, number, prepared, weights, loss)
            gradients = summed_gradients(step, self.task.specs(), parts)
        if not moves:
            return
        if train.clip_norm is not None:
            gradients = clipped(step, gradients, self.task.specs(), train.clip_norm)
        self.values.step(step, gradients, weights)

    def _gradients_of_parts(
        self, step: Step, number: int, prepared: Any, weights: Tensor | None, loss: Tensor
    ) -> Iterator[tuple[MicroBatch, Gradients]]:
        """Yield the gradients of a step's micro-batches; their sum is that of the step."""
        task, size = self.task, self.task.train.micro_batch
        assert size is not None
        together = step.scored is not None or not task.model.overrides("loss")
        for index, part in enumerate(parts_of(step, size, together and step.asked is not None)):
            of_part = None if weights is None else weights[part.owners["client"]]
            forward = self._forward(part.step, number + index * 2**40)
            yield part, self._gradients(forward, prepared, of_part, loss, together=False)
        if not task.personalization.overrides("loss", "penalty"):
            return
        # What is no sum over pairs takes all of them at once.
        forward = self._forward(step, number)
        terms = self._penalties(forward)
        if task.personalization.overrides("loss") and "mixed" in self.views:
            mixed = forward_in_view(forward, "mixed")
            local = mixed.of_pairs(task.personalization_params())
            of_all = task.personalization.loss(mixed.mixed(), self._frozen(step), local, step.pairs)
            terms += [] if of_all is None else [of_all]
        if terms:
            yield whole_step(step), _gradients(terms, forward)

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
            together: Whether these are all pairs of the step, which terms that are no sums over
                pairs are of.
        """
        step = forward.step
        totals = [] if not together else self._penalties(forward)
        for view in self.views:
            model = forward_in_view(forward, view)
            client, losses, total = self._losses(model, view, prepared, weights, together)
            totals.append(total)
        present = torch.as_tensor(step.owners["client"].present)
        loss[present] += segment_sum(losses.detach().double(), client, len(present))
        return _gradients(totals, forward)

    def _losses(
        self, forward: Forward, view: View, prepared: Any, weights: Tensor | None, together: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the losses of pairs, or of positives, in the model of a view, float [r].

        The personalization's rows, score and loss are of the view ``mixed``.

        Args:
            forward: The model of the view.
            view: Which it is.
            prepared: As for `_gradients`; so are weights and together.
            weights: Of each client's loss.
            together: Whether these are all pairs of the step.

        Returns:
            The position of the client of each loss, int64 [r]; the losses; what is trained on.
        """
        task, personalization, step = self.task, self.task.personalization, forward.step
        mixes = view == "mixed" and personalization.overrides("rows", "score", "loss")
        rows: Tensor | None = None
        local: Mapping[str, Tensor] = {}
        if mixes or not forward.is_direct:
            rows = work = forward.mixed()
        if mixes:
            frozen, local = self._frozen(step), forward.of_pairs(task.personalization_params())
            rows = personalization.rows(work, frozen, local, step.pairs)
            check_shapes(f"{task.personalized}: rows", {"": rows}, {"": work})
        score = result = forward.trained_on(rows)
        if mixes and personalization.changes_score:
            of_scores, index = local, step.pairs.index
            if step.scored is not None:
                index = index[step.scored]
                of_scores = forward.of_pairs(task.personalization_params(), step.scored)
            score = personalization.score(result, of_scores, index, prepared)
        method = "loss" if task.model.overrides("loss") else "score"
        model = f"model {type(task.model).__name__}: {method}"
        results = {model: result, f"{task.personalized}: score": score}
        for source, values in results.items():
            check_shapes(source, {"": values}, {"": step.is_positive})
            if not values.requires_grad:
                raise ConfigError(f"{source} {UNTRAINED}")
        client, losses = losses_of(task, step, score)
        total = losses if weights is None else losses * weights.to(losses.dtype)[client]
        total = total.sum()
        if mixes and together:
            of_all = personalization.loss(work, frozen, local, step.pairs)
            total = total if of_all is None else total + of_all
        if not math.isfinite(total.item()):
            if rows is not None:
                results = {f"{task.personalized}: rows": rows, **results}
            for source, values in results.items():
                if not values.isfinite().all():
                    if task.resources_used.loss_scale != 1:
                        raise ConfigError(f"{source} {_NOT_FINITE_IN_FP16}")
                    raise not_finite(f"{source} is not finite", forward.values.values())
        return client, losses, total

    def after_epoch(self, every_pair: Step, prepared: Any) -> None:
        """Let the personalization set its values after an epoch."""
        values = self.values
        with torch.no_grad():
            forward = self._forward(every_pair, None)
            changed = self.task.personalization.after_epoch(
                self._frozen(every_pair),
                forward.of_pairs(self.task.personalization_params()),
                {name: values.private[name] for name in self.task.personalization_params()},
                every_pair.pairs,
                prepared,
                forward,
            )
            self._set_added("after_epoch", changed)

    def outcome(self, loss: Tensor, before: Tensor) -> tuple[UpdateBatch, dict[str, FloatArray]]:
        """Return what the round changed."""
        task, plan, values = self.task, self.plan, self.values
        if task.personalization.acts_after_round:
            positives = positives_of_clients(plan.shard)
            at = torch.as_tensor(plan.rows.find(positives.owners(), positives.values))
            change = (self._mixed(values.shared) - self._mixed(values.start))[at]
            change[at < 0] = 0
            added = {n: values.private[n] for n in task.personalization_params()}
            self._set_added("after_round", task.personalization.after_round(change, added))
        if values.state is None:
            updates = {n: ClientUpdate(v - values.start[n]) for n, v in values.shared.items()}
            extras: Mapping[str, Tensor] = {}
        else:
            updates = dict(values.state.finish(values.shared, values.start))
            values.private |= values.state.remember(updates)
            extras = values.state.extras()
        examples, tables = plan.shard.examples(), {}
        for name in self.tables:
            rows, chosen = plan.rows, self._uploaded(name)
            rows = rows if chosen is None else rows.where(chosen)
            for sent, uploaded in _uploads([name], updates).items():
                of_rows = uploaded if chosen is None else uploaded[chosen]
                tables[sent] = RowBlock(rows.offsets, rows.values, of_rows)
        metrics = {"loss": to_array(loss), "examples": examples}
        if "loss_before" in task.measures:
            metrics["loss_before"] = to_array(before) / np.maximum(examples, 1)
        update = UpdateBatch(
            round=plan.round,
            client_ids=plan.shard.client_ids,
            weight=examples,
            tables=tables,
            dense=_uploads(self.dense, updates),
            metrics=metrics,
            extras={name: to_array(value) for name, value in extras.items()},
        )
        return update, {name: to_array(value) for name, value in values.private.items()}

    def _uploaded(self, name: str) -> NDArray[np.bool_] | None:
        """Return which local rows of an item table are uploaded, bool [n]; None: all."""
        if len(self.task.phases_of(name)) == len(self.task.phases):
            return None
        chosen = to_array(self.plan.touched(name))
        if self.values.state is not None:
            chosen[to_array(self.values.state.remembered)] = True
        return chosen

    def _set_added(self, method: str, changed: Mapping[str, Tensor]) -> None:
        """Set the personalization's parameters that one of its methods returned."""
        added = {name: self.values.private[name] for name in self.task.personalization_params()}
        check_shapes(f"{self.task.personalized}: {method}", {**added, **changed}, added)
        self.values.private |= changed

    def _forward(self, step: Step, number: int | None) -> Forward:
        """Gather the values that a step uses: per pair, per client of the step, per owner.

        Args:
            step: The step.
            number: Of the step in its epoch, for dropout; None: nothing is dropped.
        """
        keys = self._keys(step.owners["client"].present, number)
        return Forward(self.task, step, self.values.of_step(step), keys)

    def _keys(self, present: IntArray, number: int | None) -> Tensor | None:
        """Return what the dropout of each client of a step depends on, int64 [c]."""
        network = self.task.network
        if network is None or number is None:
            return None
        if not network.drops:
            return torch.zeros(len(present), dtype=torch.int64)
        ids = self.plan.shard.client_ids[present]
        draw = np.full(len(ids), self.epoch * 2**20 + number)
        hashed = bits(self.task.seed, Purpose.DROPOUT, self.plan.round, ids, draw)
        return torch.as_tensor(hashed.view(np.int64))

    def _penalties(self, forward: Forward) -> list[Tensor]:
        """Return the terms of the loss of the copies that are trained."""
        values = self.values
        return penalties(self.task, forward.step, forward.values, values.received, values.trained)

    def _frozen(self, step: Step) -> Tensor:
        """Return what the personalization mixes, as the round began, float [q, d]."""
        if self.task.mixes_vectors:
            if not self.task.personalization.needs_frozen_items:
                return torch.zeros(len(step.local_rows), 0)
            return self.frozen_items.table.index_select(0, step.pairs.items)
        if "item" not in self.values.start:
            return torch.zeros(len(step.local_rows), 0)
        start = self.values.start["item"]
        return start if step.every_row else start.index_select(0, step.local_rows)

    def _mixed(self, shared: Mapping[str, Tensor]) -> Tensor:
        """Return what the personalization mixes, of all local rows, float [n, d]."""
        task, rows = self.task, self.plan.rows
        if not task.mixes_vectors:
            return shared["item"]
        present, items = np.flatnonzero(rows.lengths), torch.as_tensor(rows.values)
        of_rows = {name: shared[name] for name in self.tables}
        of_clients = {name: shared[name][torch.as_tensor(present)] for name in self.dense}
        owners = torch.as_tensor(rows.owners())
        every_row = Rows(
            rows.lengths[present],
            owners,
            items,
            of_rows,
            of_clients,
            features=task.frozen_tables,
            network=task.network,
        )
        return encode(task, every_row)


def _gradients(terms: Sequence[Tensor], forward: Forward) -> Gradients:
    """Return the gradients of a sum of terms by what a step trains; None: it has none."""
    leaves = {name: value for name, value in forward.values.items() if value.requires_grad}
    scale = forward.task.resources_used.loss_scale
    terms = terms if scale == 1 else [term * scale for term in terms]
    gradients = torch.autograd.grad(terms, [*leaves.values()], allow_unused=True)
    by_name = dict(zip(leaves, gradients, strict=True))
    if scale != 1:
        by_name = {n: None if each is None else each / scale for n, each in by_name.items()}
        for name, each in by_name.items():
            if each is not None and not each.isfinite().all():
                raise ConfigError(f"the gradient of '{name}' {_NOT_FINITE_IN_FP16}")
    return by_name


def _uploads(names: Iterable[str], updates: Mapping[str, ClientUpdate]) -> dict[str, FloatArray]:
    uploads = {}
    for name in names:
        uploads[name] = to_array(updates[name].change)
        uploads |= {f"{name}/{kind}": to_array(value) for kind, value in updates[name].up.items()}
    return uploads
