"""What a strategy's client rule sees of the shared parameters, and what clients remember of them.

Values of an item table stand on the local rows of a plan, those of a dense parameter per client.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from fedrec.compute.device import to_array
from fedrec.errors import ConfigError, check_shapes, kind_of, not_finite
from fedrec.plugins import name_of
from fedrec.ragged import offsets_of
from fedrec.training.client_rule import SEEN_ITEMS, ClientUpdate, ParamView
from fedrec.training.draws import capacity, remembered_items
from fedrec.training.plan import TrainingPlan
from fedrec.training.task import ClientTask


class ClientState:
    """The shared parameters of some clients as their client rule sees them.

    Args:
        task: What is trained.
        plan: The round of the clients; its local rows include all remembered ones.
        params: The shared parameters and what the server sent beside them.
        local: The private parameters before the round.
    """

    def __init__(
        self,
        task: ClientTask,
        plan: TrainingPlan,
        params: Mapping[str, Tensor],
        local: Mapping[str, Tensor],
    ) -> None:
        n_clients, rule = plan.shard.n_clients, task.client_rule
        self.task, self.plan, self.local = task, plan, local
        self._named = f"client rule {name_of('client_rules', rule)}"
        self.optimizers = task.optimizers(plan.round)
        self.row_client = torch.as_tensor(plan.rows.owners())
        self.touched = {name: plan.touched(name) for name in task.tables()}
        self.steps = {
            name: torch.zeros(n_clients, dtype=torch.float64) for name in task.shared_specs()
        }
        for name, steps in self.steps.items():
            for step in plan.steps_of(name):
                steps[torch.as_tensor(step.owners["client"].present)] += 1
        self.remembered = torch.zeros(0, dtype=torch.int64)
        ids = {n: to_array(v) for n, v in local.items() if n == SEEN_ITEMS}
        items = remembered_items(task, plan.shard, ids)
        if items is not None:
            self.remembered = torch.as_tensor(plan.rows.find(items.owners(), items.values))
        row_items = torch.as_tensor(plan.rows.values)
        self.down: dict[str, Tensor] = {}
        self.memory: dict[str, Tensor] = {}
        for name, spec in task.shared_specs().items():
            by_row = spec.axis == "item"
            for key in (f"{name}/{kind}" for kind in rule.down):
                value = params[key]
                dense = value.expand(n_clients, *value.shape)
                self.down[key] = value[row_items] if by_row else dense
            for key in (f"{name}/{kind}" for kind in rule.memory):
                self.memory[key] = local[key]
                if by_row:
                    on_rows = local[key].new_zeros((len(row_items), *local[key].shape[1:]))
                    used = local[SEEN_ITEMS] >= 0 if SEEN_ITEMS in local else slice(None)
                    on_rows[self.remembered] = local[key][used]
                    self.memory[key] = on_rows

    @property
    def is_idle(self) -> Tensor:
        """Whether each client trains nothing that is shared, bool [c]."""
        none = torch.zeros(self.plan.shard.n_clients, dtype=torch.float64)
        return torch.stack([none, *self.steps.values()]).amax(0) == 0

    def extras(self) -> Mapping[str, Tensor]:
        """Return what the rule wants summed with the clients' weights."""
        specs = self.task.specs()
        rates = {name: self.optimizers.of(specs[name]).lr for name in self.steps}
        extras = self.task.client_rule.extras(self.steps, rates)
        like = torch.zeros(self.plan.shard.n_clients)
        names = extras if isinstance(extras, Mapping) else ()
        check_shapes(f"{self._named}: extras", extras, dict.fromkeys(names, like))
        return extras

    def gradient_terms(
        self,
        values: Mapping[str, Tensor],
        starts: Mapping[str, Tensor],
        present: Tensor,
        names: Iterable[str],
    ) -> dict[str, Tensor]:
        """Return the rule's terms of the gradients of some shared parameters, by name.

        They move the clients that make this step, ``present`` bool [c], and no others.
        """
        terms, everybody = {}, bool(present.all())
        for name in names:
            value = values[name]
            term = self.task.client_rule.gradient_term(self._view(name, value, starts[name]))
            if term is not None:
                self._check(f"gradient_term of '{name}'", {"": term}, [""], value)
                absent = None if everybody else ~self._of_clients(name, present, value)
                terms[name] = term if absent is None else term.masked_fill(absent, 0)
        return terms

    def finish(
        self, values: Mapping[str, Tensor], starts: Mapping[str, Tensor]
    ) -> Mapping[str, ClientUpdate]:
        """Return what is uploaded and remembered of each parameter; nothing of idle clients."""
        updates = {}
        for name, value in values.items():
            view = self._view(name, value, starts[name])
            rule, source = self.task.client_rule, f"finalize of '{name}'"
            update = rule.finalize(view)
            if not isinstance(update, ClientUpdate):
                raise ConfigError(
                    f"{self._named}: {source} returned {kind_of(update)}, expected a ClientUpdate"
                )
            sent = {"": update.change, **update.up}
            self._check(f"{source}: change and up", sent, ("", *rule.up), value)
            self._check(f"{source}: memory", update.memory, rule.memory, value)
            updates[name] = update
            if bool((self.steps[name] > 0).all()):
                continue
            idle = self._of_clients(name, self.steps[name] == 0, value)
            memory = {
                kind: torch.where(idle, view.memory[kind], remembered)
                for kind, remembered in update.memory.items()
            }
            up = {kind: sent.masked_fill(idle, 0) for kind, sent in update.up.items()}
            updates[name] = ClientUpdate(update.change.masked_fill(idle, 0), up, memory)
        return updates

    def remember(self, updates: Mapping[str, ClientUpdate]) -> dict[str, Tensor]:
        """Return the private parameters in which `finish`'s memory is kept."""
        memory = {
            f"{name}/{kind}": remembered
            for name, update in updates.items()
            for kind, remembered in update.memory.items()
        }
        if SEEN_ITEMS not in self.local:
            tables = self.task.tables()
            return {
                name: value[self.remembered] if name.rpartition("/")[0] in tables else value
                for name, value in memory.items()
            }
        plan = self.plan
        before = torch.zeros(len(self.row_client), dtype=torch.bool)
        before[self.remembered] = True
        touched = torch.stack(list(self.touched.values())).any(0)
        chosen = touched | (before & self.is_idle[self.row_client])
        owner = to_array(self.row_client[chosen])
        lengths = np.bincount(owner, minlength=plan.shard.n_clients)
        within = np.arange(len(owner)) - offsets_of(lengths)[owner]
        at = torch.as_tensor(capacity(plan.shard, self.task)[owner] + within)
        items = torch.as_tensor(plan.rows.values).to(torch.int32)
        for name in memory:
            if name.rpartition("/")[0] in self.task.tables():
                value = torch.zeros_like(self.local[name])
                value[at] = memory[name][chosen]
                memory[name] = value
        seen = torch.full_like(self.local[SEEN_ITEMS], -1)
        seen[at] = items[chosen]
        return {**memory, SEEN_ITEMS: seen}

    def _check(
        self, source: str, came: Mapping[str, Tensor], names: Iterable[str], value: Tensor
    ) -> None:
        """Check names, shapes and types of what the rule returned, and that it is finite.

        Raises:
            ConfigError: If something differs from the parameter, or is not finite.
            NumericError: If something is not finite, as large parameters make it.
        """
        source = f"{self._named}: {source}"
        check_shapes(source, came, dict.fromkeys(names, value), typed=True)
        for returned in came.values():
            if returned.sum().isfinite():  # many times faster than to look at each
                continue
            if not returned.isfinite().all() and value.isfinite().all():
                raise not_finite(f"{source} is not finite", [value])

    def _view(self, name: str, value: Tensor, start: Tensor) -> ParamView:
        rule, by_row = self.task.client_rule, name in self.task.tables()
        trained = self._of_clients(name, self.steps[name] > 0, value)
        return ParamView(
            value=value,
            start=start,
            down={kind: self.down[f"{name}/{kind}"] for kind in rule.down},
            memory={kind: self.memory[f"{name}/{kind}"] for kind in rule.memory},
            steps=self._of_clients(name, self.steps[name].clamp_min(1).to(value.dtype), value),
            rate=self.optimizers.of(self.task.specs()[name]).lr,
            touched=self.touched[name].reshape(trained.shape) if by_row else trained,
            remembered=self._is_remembered(name).reshape(trained.shape),
        )

    def _is_remembered(self, name: str) -> Tensor:
        """Return whether the memory of a row lasts, bool [n]: all but rows of no train item."""
        n = len(self.row_client) if name in self.task.tables() else self.plan.shard.n_clients
        lasts = torch.ones(n, dtype=torch.bool)
        if name in self.task.tables() and self.task.client_rule.remembers == "positives":
            lasts = torch.zeros(n, dtype=torch.bool)
            lasts[self.remembered] = True
        return lasts

    def _of_clients(self, name: str, values: Tensor, like: Tensor) -> Tensor:
        """Return each client's value once for each of its rows of a parameter."""
        rows = values[self.row_client] if name in self.task.tables() else values
        return rows.reshape(-1, *[1] * (like.dim() - 1))
