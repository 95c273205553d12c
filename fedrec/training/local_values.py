"""The values of some clients while they train, and what a step makes of them."""

from collections.abc import Collection, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from fedrec.errors import check_shapes
from fedrec.personalization.base import Phase
from fedrec.training.client_state import ClientState
from fedrec.training.clipping import clients_of_owners
from fedrec.training.draws import positives_of_clients
from fedrec.training.losses import positives_of
from fedrec.training.optimizers import gradient_of_rows, step_rows
from fedrec.training.plan import Step, TrainingPlan
from fedrec.training.task import ClientTask

Gradients: TypeAlias = Mapping[str, Tensor | None]
"""By the values of a step, by name, as `fedrec.training.clipping.clipped` says."""


class LocalValues:
    """The values of some clients while they train; changed in place.

    Args:
        task: Model, personalization, optimizers.
        plan: The round of the clients.
        params: The shared parameters, and what the strategy sent beside them. Those of which
            clients have different values stand as in `start`, by the names in ``own``.
        local: The private parameters.
        own: Names of shared parameters of which clients received different values.

    Attributes:
        start: The shared values as the round began: of item tables the local rows, float
            [n, *shape], of dense parameters a value per client, float [c, *shape].
        shared: The same as they are.
        private: As `fedrec.training.draws.Layout` says.
        received: What there are copies of, as the round began.
        trained: Names of what the phase trains.
        state: What a client rule sees; None where it asks nothing but that the values be trained.
    """

    def __init__(
        self,
        task: ClientTask,
        plan: TrainingPlan,
        params: Mapping[str, Tensor],
        local: Mapping[str, Tensor],
        own: Collection[str] = (),
    ) -> None:
        row_items, n_clients = torch.as_tensor(plan.rows.values), plan.shard.n_clients
        self.task, self.plan = task, plan
        self.row_client = torch.as_tensor(plan.rows.owners())
        shared = {name: value for name, value in params.items() if name not in own}
        self.start = {name: params[name] for name in own}
        self.start |= {
            n: shared[n].index_select(0, row_items) for n in task.tables() if n in shared
        }
        self.start |= {
            n: shared[n].expand(n_clients, *shared[n].shape) for n in task.dense() if n in shared
        }
        self.shared = dict(self.start)
        self.private = {name: value.clone() for name, value in local.items()}
        self.received = {name: {**self.start, **local}[name] for name in task.copies().values()}
        self.optimizers = task.optimizers(plan.round)
        self.trained: Collection[str] = ()
        self._phase: Phase | None = None
        self._remembered: dict[str, dict[str, Tensor]] = {}
        self._steps = 0
        plain = task.client_rule.plain and task.client_rule.proximal == 0
        self.state = None if plain else ClientState(task, plan, params, local)

    def begin(self, phase: Phase) -> None:
        """Begin a phase, or go on with it."""
        if phase is self._phase:
            return
        self._phase, self.trained = phase, frozenset(phase.parameters or ())
        # What is remembered of shared parameters, and of their copies, starts anew in every phase.
        values = {**self.shared, **self.private}
        self._remembered = {
            name: self.optimizers.of(self.task.steps_as(name)).initial_state(values[name])
            for name in self.trained
            if self.task.steps_as(name).scope == "shared"
        }

    def of_step(self, step: Step) -> dict[str, Tensor]:
        """Return the values of a step: per pair, per client of it, per owner; see `Forward`.

        What the phase trains wants a gradient.
        """
        values, specs = {}, self.task.specs()
        for name in self.task.tables():
            value = self.shared[name]
            values[name] = value if step.every_row else value.index_select(0, step.local_rows)
        clients = torch.as_tensor(step.owners["client"].present)
        for name in self.task.dense():
            values[name] = self.shared[name].index_select(0, clients)
        for name in self.task.private():
            owners = torch.as_tensor(step.owners[str(specs[name].axis)].present)
            values[name] = self.private[name].index_select(0, owners)
        return {n: v.detach().requires_grad_(n in self.trained) for n, v in values.items()}

    def step(self, step: Step, gradients: Gradients, weights: Tensor | None) -> None:
        """Make a step.

        Args:
            step: Whose it is.
            gradients: By all that the phase trains.
            weights: Of each client's loss, float64 [c].
        """
        self._step_shared(step, gradients)
        for name in self.task.private():
            if name in gradients:
                self._step_private(name, step, gradients[name], weights)
        self._steps += 1

    def _step_shared(self, step: Step, gradients: Gradients) -> None:
        clients = torch.as_tensor(step.owners["client"].present)
        present = torch.zeros(self.plan.shard.n_clients, dtype=torch.bool)
        present[clients] = True
        terms: Mapping[str, Tensor] = {}
        names = [name for name in self.shared if name in self.trained]
        if self.state is not None:
            terms = self.state.gradient_terms(self.shared, self.start, present, names)
        for name in names:
            value, gradient = self.shared[name], gradients[name]
            spec = self.task.specs()[name]
            optimizer, by_row = self.optimizers.of(spec), spec.axis == "item"
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
                step_rows(optimizer, value, of_rows, self._remembered[name], rows)
            elif name in terms:
                value -= optimizer.lr * terms[name]
            self.shared[name] = value

    def _step_private(
        self, name: str, step: Step, gradient: Tensor | None, weights: Tensor | None
    ) -> None:
        axis, like = str(self.task.specs()[name].axis), self.task.steps_as(name)
        optimizer, value = self.optimizers.of(like), self.private[name]
        at = torch.as_tensor(step.owners[axis].present)
        before = value.index_select(0, at)
        gradient = torch.zeros_like(before) if gradient is None else gradient
        if name in self.task.personalization.moves:
            after = self.task.personalization.move(name, before, gradient, self._steps)
            source = f"{self.task.personalized}: move of '{name}'"
            check_shapes(source, {"": after}, {"": before})
            value.index_copy_(0, at, after)
        elif like.scope == "shared":
            rows = at
            if axis == "positive" and not optimizer.plain:
                # As in a table, also rows without gradient may move.
                positives = positives_of_clients(self.plan.shard)
                rows = torch.as_tensor(positives.positions(step.owners["client"].present))
                gradient = gradient_of_rows(value, gradient, at, rows, None)
            step_rows(optimizer, value, gradient, self._remembered[name], rows)
        else:
            gradient = gradient + self._decay(step, axis, before, weights)
            state = {key: self.private[f"{name}/{key}"] for key in optimizer.state}
            step_rows(optimizer, value, gradient, state, at)

    def _decay(
        self, step: Step, axis: str, value: Tensor, weights: Tensor | None
    ) -> Tensor | float:
        """Return what ``train.weight_decay`` adds to the gradient of owners' values."""
        if self.task.train.weight_decay == 0:
            return 0.0
        scale = torch.as_tensor(positives_of(step, axis))
        if weights is not None:
            scale *= weights[clients_of_owners(step, axis)]
        scale = (self.task.train.weight_decay * scale).to(value.dtype)
        return scale.reshape(-1, *[1] * (value.dim() - 1)) * value
