"""The model on the pairs of a step, at the parameters at hand: flat, side by side or one by one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedrec.compute.operations import gather, repeat_rows
from fedrec.models.base import Pairs
from fedrec.training.executors.clientwise import Call, Rows, Values, by_client
from fedrec.training.plan import Owners, Step
from fedrec.training.task import ClientTask


@dataclass(frozen=True, slots=True)
class Forward:
    """The model as a function of the item vectors (see `fedrec.personalization.base.Forward`).

    Args:
        task: Model and personalization.
        step: The pairs, and whose they are.
        values: Per item table, float [q, *shape], a row per pair; per dense shared parameter,
            float [c, *shape], one per client of the step; per private parameter,
            float [n, *shape], one per owner of the step.
    """

    task: ClientTask
    step: Step
    values: Mapping[str, Tensor]

    def score(self, rows: Tensor) -> Tensor:
        """Score the pairs with given item vectors: float [q, d] -> float [q]."""
        return self._of(self.task.model.score, rows, None, self.step.pairs.context)

    def features(self, rows: Tensor) -> Tensor:
        """Return the input of the model's last linear layer: float [q, d] -> float [q, h]."""
        return self._of(self.task.model.features, rows, None, self.step.pairs.context)

    def trained_scores(self, rows: Tensor) -> Tensor:
        """Score what the step trains on: float [q, d] -> float [r]."""
        return self._of(self.task.model.score, rows, self.step.scored, self.step.context)

    def of_pairs(self, names: Iterable[str], at: Tensor | None = None) -> dict[str, Tensor]:
        """Return private parameters once per pair, float [q, *shape].

        Args:
            names: Of the parameters.
            at: int64 [r], which pairs; None: each once.
        """
        owners, specs = self.step.owners, self.task.specs()
        values = {n: _spread(self.values[n], owners[str(specs[n].axis)]) for n in names}
        return values if at is None else {name: gather(v, at) for name, v in values.items()}

    def _of(self, call: Call, rows: Tensor, at: Tensor | None, context: Tensor | None) -> Tensor:
        task, pairs = self.task, self.step.pairs
        users, clients = self.step.owners["user"], self.step.owners["client"]
        tables = {**{name: self.values[name] for name in task.tables()}, "item": rows}
        private = {n: task.specs()[n].axis for n in task.private() if n not in task.added()}
        if task.model.execution == "flat":
            dense = {name: _spread(self.values[name], clients) for name in task.dense()}
            params = tables | self.of_pairs(private) | dense
            return call(params, Pairs(pairs.users, pairs.items))
        # Of clients with one user each, what is the user's is the client's.
        single = len(users.present) == len(clients.present)
        repeated = [n for n, axis in private.items() if axis == "user" and single]
        of_clients = [n for n, axis in private.items() if axis == "client"]
        by_pair = [n for n in private if n not in repeated and n not in of_clients]
        user, item, client = pairs.users, pairs.items, clients.index
        if at is not None:
            tables = {name: gather(value, at) for name, value in tables.items()}
            user, item, client = user[at], item[at], client[at.numpy()]
        return by_client(
            call,
            Values(
                tables | self.of_pairs(by_pair, at),
                {name: self.values[name] for name in (*task.dense(), *of_clients)},
                history=rows,
                repeated={name: self.values[name] for name in repeated},
            ),
            Rows(np.bincount(client), user, item, context, pairs.history),
            task.model.execution == "vmap",
        )


def _spread(values: Tensor, owners: Owners) -> Tensor:
    """Return each owner's value once per pair; 0 where a pair has no owner."""
    if owners.offsets is not None:
        return repeat_rows(values, owners.offsets)
    none = values.new_zeros((1, *values.shape[1:]))
    return gather(torch.cat([values, none]), torch.from_numpy(owners.index))
