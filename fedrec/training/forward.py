"""The model on the pairs of a step, at the parameters at hand: flat, side by side or one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from fedrec.compute.operations import gather
from fedrec.compute.segments import repeat_rows
from fedrec.models.base import Pairs
from fedrec.training.executors.clientwise import Call, Rows, Values, by_client
from fedrec.training.plan import Owners, Step
from fedrec.training.task import ClientTask

__all__ = ["Forward"]

Tensor: TypeAlias = "torch.Tensor"


@dataclass(frozen=True, slots=True)
class Forward:
    """The model as a function of the item vectors (see `fedrec.personalization.base.Forward`).

    Args:
        task: Model and personalization.
        step: The pairs, and whose they are.
        tables: Per item table, float [q, *shape], a row per pair.
        dense: Per dense shared parameter, float [c, *shape], one per client of the step.
        private: Per private parameter, float [n, *shape], one per owner of the step.
    """

    task: ClientTask
    step: Step
    tables: Mapping[str, Tensor]
    dense: Mapping[str, Tensor]
    private: Mapping[str, Tensor]

    def score(self, rows: Tensor) -> Tensor:
        """Score the pairs with given item vectors: float [q, d] -> float [q]."""
        return self._of(self.task.model.score, rows, None, self.step.pairs.context)

    def features(self, rows: Tensor) -> Tensor:
        """Return the input of the model's last linear layer: float [q, d] -> float [q, h]."""
        return self._of(self.task.model.features, rows, None, self.step.pairs.context)

    def trained_scores(self, rows: Tensor) -> Tensor:
        """Score what the step trains on: float [q, d] -> float [r]."""
        return self._of(self.task.model.score, rows, self.step.scored, self.step.context)

    def of_pairs(self, names: tuple[str, ...], scored: bool = False) -> dict[str, Tensor]:
        """Return private parameters once per pair (or per score), float [q, *shape].

        Args:
            names: Of the parameters.
            scored: Per score.
        """
        values = {n: _spread(self.private[n], self.step.owners[self._axis(n)]) for n in names}
        if not scored or self.step.scored is None:
            return values
        return {name: gather(value, self.step.scored) for name, value in values.items()}

    def _axis(self, name: str) -> str:
        return str(self.task.specs()[name].axis)

    def _of(self, call: Call, rows: Tensor, at: Tensor | None, context: Tensor | None) -> Tensor:
        model, pairs = self.task.model, self.step.pairs
        private = {n: s.axis for n, s in model.params().items() if s.scope == "private"}
        clients = self.step.owners["client"]
        tables = {**self.tables, "item": rows}
        if model.execution == "flat":
            params = tables | self.of_pairs(tuple(private))
            params |= {name: _spread(value, clients) for name, value in self.dense.items()}
            return call(params, Pairs(pairs.users, pairs.items))
        users = self.step.owners["user"]
        # Of clients with one user each, what is the user's is the client's.
        single = len(users.present) == len(clients.present)
        repeated = [n for n, axis in private.items() if axis == "user" and single]
        of_clients = [n for n, axis in private.items() if axis == "client"]
        others = [n for n in private if n not in repeated and n not in of_clients]
        values = tables | self.of_pairs(tuple(others))
        chosen, counts = pairs, np.bincount(clients.index)
        user, item = chosen.users, chosen.items
        if at is not None:
            values = {name: gather(value, at) for name, value in values.items()}
            user, item = user[at], item[at]
            counts = np.bincount(clients.index[at.numpy()])
        return by_client(
            call,
            Values(
                values,
                {**self.dense, **{n: self.private[n] for n in of_clients}},
                history=rows,
                repeated={n: self.private[n] for n in repeated},
            ),
            Rows(counts, user, item, context, pairs.history),
            model.execution == "vmap",
        )


def _spread(values: Tensor, owners: Owners) -> Tensor:
    """Return each owner's value once per pair; 0 where a pair has no owner."""
    if owners.offsets is not None:
        return repeat_rows(values, owners.offsets)
    none = values.new_zeros((1, *values.shape[1:]))
    return gather(torch.cat([values, none]), torch.from_numpy(owners.index))
