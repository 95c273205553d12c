"""The model on the pairs of a step, at the parameters at hand: flat, side by side or one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch

from fedrec.compute.batch import PairBatch
from fedrec.compute.operations import gather
from fedrec.models.base import Pairs
from fedrec.training.grouped import Call, Rows, Values, by_client
from fedrec.training.task import ClientTask

__all__ = ["Forward"]

Tensor: TypeAlias = "torch.Tensor"


@dataclass(frozen=True, slots=True)
class Forward:
    """The model as a function of the item vectors (see `fedrec.personalization.base.Forward`).

    Args:
        task: model and personalization.
        tables: per item table, float [t, *shape], one row per slot.
        dense: per dense global parameter, float [c, *shape], one per client.
        local: per user [u, ...], per client [c, ...], per row spread over the slots [t, ...].
        touched: the pairs.
    """

    task: ClientTask
    tables: Mapping[str, Tensor]
    dense: Mapping[str, Tensor]
    local: Mapping[str, Tensor]
    touched: PairBatch

    def score(self, rows: Tensor) -> Tensor:
        """float [q, d] -> float [q]."""
        return self._of_pairs(self.task.model.score, rows)

    def features(self, rows: Tensor) -> Tensor:
        """float [q, d] -> float [q, h]."""
        return self._of_pairs(self.task.model.features, rows)

    def logits(
        self, rows: Tensor, positive: Tensor, negative: Tensor, prepared: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The trained scores of positives and of their negatives.

        A model with a window scores a negative from what stood before its positive, so a pair
        that was drawn for two positives has two scores.

        Args:
            rows: float [q, d], the item vectors of the pairs.
            positive: int64 [p], pairs.
            negative: int64 [p, k], pairs.
            prepared: what the personalization prepared.

        Returns:
            float [p] and float [p, k].
        """
        own, touched = self.task.personalization, self.touched
        if touched.context is None:
            score = own.score(self.score(rows), self.local, touched, prepared)
            return gather(score, positive), gather(score, negative)
        asked = torch.cat([positive.unsqueeze(1), negative], dim=1)
        context = touched.context[positive].unsqueeze(1).expand_as(asked).flatten()
        base = self._by_client(self.task.model.score, rows, asked.flatten(), context)
        score = own.score(base, self.local, touched.at(asked.flatten()), prepared)
        both = score.reshape(asked.shape)
        return both[:, 0], both[:, 1:]

    def _of_pairs(self, call: Call, rows: Tensor) -> Tensor:
        if self.task.model.execution == "flat":
            return call(
                self._flat() | {"item": rows}, Pairs(self.touched.users, self.touched.items)
            )
        return self._by_client(call, rows, torch.arange(len(rows)), self.touched.context)

    def _flat(self) -> dict[str, Tensor]:
        """Every parameter of the model but the item rows, gathered for the pairs."""
        touched = self.touched
        params = {n: gather(t, touched.local_rows) for n, t in self.tables.items() if n != "item"}
        params |= {name: gather(value, touched.clients) for name, value in self.dense.items()}
        for name, per in self._own().items():
            params[name] = gather(self.local[name], self._owner(per))
        return params

    def _by_client(self, call: Call, rows: Tensor, at: Tensor, context: Tensor | None) -> Tensor:
        """Some pairs, with the parameters of their clients."""
        touched, own = self.touched, self._own()
        of_rows = {"item": (rows, at)}
        of_rows |= {n: (t, touched.local_rows[at]) for n, t in self.tables.items() if n != "item"}
        for name, per in own.items():
            if per != "client":
                of_rows[name] = (self.local[name], self._owner(per)[at])
        of_clients = {n: self.local[n] for n, per in own.items() if per == "client"}
        values = Values(of_rows, {**self.dense, **of_clients}, history=rows)
        wanted = Rows(
            touched.users[at], touched.items[at], touched.clients[at], context, touched.history
        )
        return by_client(call, values, wanted, self.task.model.execution == "vmap")

    def _own(self) -> dict[str, str]:
        """Whose each local parameter of the model is."""
        specs = self.task.model.params()
        return {n: s.per or "client" for n, s in specs.items() if s.role == "local"}

    def _owner(self, per: str) -> Tensor:
        touched = self.touched
        return {"user": touched.users, "row": touched.local_rows}.get(per, touched.clients)
