"""What clients remember of the rows they touched, and how it comes to their slots and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from fedrec.training.client_rule import SEEN_ITEMS, ClientUpdate, ParamView
from fedrec.training.layout import capacity
from fedrec.training.plan import TrainingPlan
from fedrec.types import IntArray, Ragged, offsets_of

if TYPE_CHECKING:
    from fedrec.training.task import ClientTask

__all__ = ["ClientState", "seen_items"]

Tensor: TypeAlias = "torch.Tensor"


def seen_items(offsets: IntArray, items: np.ndarray) -> Ragged:
    """One row per client: the items that it remembers, sorted.

    Args:
        offsets: int64 [c + 1] of `capacity`.
        items: int32 [offsets[-1]], sorted within a client, -1 where the room is empty.
    """
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    used = items >= 0
    lengths = np.bincount(owners[used], minlength=len(offsets) - 1)
    return Ragged(offsets_of(lengths), items[used].astype(np.int64))


@dataclass(frozen=True, slots=True)
class ClientState:
    """The global parameters of some clients as their strategy's client rule sees them.

    Args:
        task: what is trained.
        down: what the server sent: per name of `ClientRule.travels`, tables gathered to the slots,
            dense ones once per client.
        own: what is remembered, on the slots, or per client; 0 where nothing is.
        steps: float64 [c], the steps of each client in this round.
        row_client: int64 [t].
        touched: bool [t].
        local_rows: int64 [m], the slots of the remembered rows.
    """

    task: ClientTask
    down: Mapping[str, Tensor]
    own: Mapping[str, Tensor]
    steps: Tensor
    row_client: Tensor
    touched: Tensor
    local_rows: Tensor

    @classmethod
    def of(
        cls,
        task: ClientTask,
        work: TrainingPlan,
        params: Mapping[str, Tensor],
        local: Mapping[str, Tensor],
    ) -> ClientState:
        """What some clients start a round with.

        Args:
            task: what is trained.
            work: the round of the clients; its slots include all remembered rows.
            params: the global parameters and what the server sent beside them.
            local: the local parameters (see `fedrec.training.local_sgd.train_chunk`).
        """
        rule, shard = task.client_rule, work.shard
        row_client = np.repeat(np.arange(shard.n_clients), np.diff(work.row_offsets))
        row_items = torch.from_numpy(np.ascontiguousarray(work.row_items))
        touched = torch.zeros(len(row_items), dtype=torch.bool)
        steps = np.zeros(shard.n_clients, np.int64)
        for epoch in work.epochs:
            for step in epoch.steps:
                touched[step.local_rows] = True
                steps[step.owners["client"].present] += 1
        local_rows = torch.zeros(0, dtype=torch.int64)
        if SEEN_ITEMS in local:
            offsets = capacity(shard, task.train, task.personalization.random_rows)
            rows = seen_items(offsets, local[SEEN_ITEMS].numpy())
            local_rows = torch.from_numpy(work.rows_of(rows.owners(), rows.values))
        down, own = {}, {}
        for name, spec in task.globals().items():
            for kind in rule.down:
                value = params[f"{name}/{kind}"]
                down[f"{name}/{kind}"] = (
                    value[row_items]
                    if spec.axis == "item"
                    else value.expand(shard.n_clients, *value.shape)
                )
            for kind in rule.memory:
                value = local[f"{name}/{kind}"]
                if spec.axis == "item":
                    spread = value.new_zeros((len(row_items), *value.shape[1:]))
                    spread[local_rows] = value[local[SEEN_ITEMS] >= 0]
                    value = spread
                own[f"{name}/{kind}"] = value
        return cls(
            task,
            down,
            own,
            torch.from_numpy(steps).double(),
            torch.from_numpy(row_client),
            touched,
            local_rows,
        )

    def gradient_terms(
        self,
        values: Mapping[str, Tensor],
        starts: Mapping[str, Tensor],
        present: Tensor,
    ) -> Iterator[tuple[str, Tensor]]:
        """The strategy's terms of the gradients of global parameters.

        Args:
            values: now, tables on the slots, dense ones per client.
            starts: as the round began.
            present: bool [c], the clients that make this step; the others do not move.
        """
        for name, value in values.items():
            term = self.task.client_rule.gradient_term(self._drift(name, value, starts[name]))
            if term is not None:
                here = self._per_row(name, present, value)
                yield name, torch.where(here, term, torch.zeros_like(term))

    def finish(
        self, values: Mapping[str, Tensor], starts: Mapping[str, Tensor]
    ) -> Mapping[str, ClientUpdate]:
        """What is uploaded and remembered of each global parameter; nothing of idle clients.

        Args:
            values: after the last step.
            starts: as the round began.
        """
        found = {}
        for name, value in values.items():
            drift = self._drift(name, value, starts[name])
            moved = self.task.client_rule.finalize(drift)
            busy = self._per_row(name, self.steps > 0, value)
            zero = torch.zeros_like(value)
            found[name] = ClientUpdate(
                torch.where(busy, moved.change, zero),
                {kind: torch.where(busy, up, zero) for kind, up in moved.up.items()},
                {
                    kind: torch.where(busy, own, drift.memory[kind])
                    for kind, own in moved.memory.items()
                },
            )
        return found

    def remember(
        self, work: TrainingPlan, moved: Mapping[str, ClientUpdate], local: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The local parameters in which it is kept.

        Args:
            work: the round.
            moved: of `finish`.
            local: the local parameters before the round.
        """
        kept: dict[str, Tensor] = {}
        tables = self.task.tables()
        for name in self.task.dense():
            kept |= {f"{name}/{kind}": own for kind, own in moved[name].memory.items()}
        if SEEN_ITEMS not in local:
            return kept
        shard = work.shard
        offsets = capacity(shard, self.task.train, self.task.personalization.random_rows)
        old = torch.zeros_like(self.touched)
        old[self.local_rows] = True
        keep = self.touched | (old & (self.steps == 0)[self.row_client])
        owner = self.row_client[keep]
        lengths = torch.bincount(owner, minlength=shard.n_clients).numpy()
        place = np.arange(len(owner)) - offsets_of(lengths)[:-1][owner.numpy()]
        at = torch.from_numpy(offsets[:-1][owner.numpy()] + place)
        items = torch.full_like(local[SEEN_ITEMS], -1)
        items[at] = torch.from_numpy(work.row_items).to(items.dtype)[keep]
        kept[SEEN_ITEMS] = items
        for name in tables:
            for kind, own in moved[name].memory.items():
                value = torch.zeros_like(local[f"{name}/{kind}"])
                value[at] = own[keep]
                kept[f"{name}/{kind}"] = value
        return kept

    def _drift(self, name: str, value: Tensor, start: Tensor) -> ParamView:
        rule = self.task.client_rule
        return ParamView(
            value=value,
            start=start,
            down={kind: self.down[f"{name}/{kind}"] for kind in rule.down},
            memory={kind: self.own[f"{name}/{kind}"] for kind in rule.memory},
            steps=self._per_row(name, self.steps.clamp_min(1).to(value.dtype), value),
            rate=self.task.rate(name),
            touched=(
                self.touched.reshape(-1, *[1] * (value.dim() - 1))
                if name in self.task.tables()
                else self._per_row(name, self.steps > 0, value)
            ),
        )

    def _per_row(self, name: str, of_client: Tensor, like: Tensor) -> Tensor:
        rows = of_client[self.row_client] if name in self.task.tables() else of_client
        return rows.reshape(-1, *[1] * (like.dim() - 1))
