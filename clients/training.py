"""Training on a node: some clients at a time, from their data to what may leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from clients.failures import failing_of, line_of
from fedrec.aggregation.codec import payload_bytes
from fedrec.aggregation.reduce import check_finite, joined
from fedrec.aggregation.returned import checked_sum, merged
from fedrec.aggregation.update import Aggregate, Down, UpdateBatch
from fedrec.errors import ClientFailure, NumericError
from fedrec.flower.records import CHECKSUMS, RoundRequest, Trained
from fedrec.ragged import offsets_of
from fedrec.runs.tally import likely_causes
from fedrec.training.blocks import bounded_slices, notes_of
from fedrec.training.clients import train_clients
from fedrec.training.draws import capacity, positives_of_clients
from fedrec.training.task import ClientTask
from fedrec.transforms.pipeline import transformed
from fedrec.types import FailedClient, FloatArray, IntArray, Shard
from strategies.selections.base import selection_of

if TYPE_CHECKING:
    from clients.node import Node

_HELD_BYTES = 2**23
"""Updates that are held at once, before they are summed: few enough to stay in the cache; but not
less than `_HELD_TABLES` times the tables, or merging the sums would cost more than making them."""

_HELD_TABLES = 4

_SUMMED_BYTES = 2**29
"""`_HELD_BYTES` where rows are summed on the way: held only if it turns out they have no sum."""

_MIXED_BYTES = 2**28
"""`_HELD_BYTES` where clients have values of their own: all base values are read for each cut."""


class NodeTraining:
    """The training of one request.

    Args:
        node: Whose clients train.
        request: Which round, and which clients.
        down: What the clients receive, in the order of the request.
    """

    def __init__(self, node: Node, request: RoundRequest, down: Down) -> None:
        self._node, self._request, self._down = node, request, down
        self._aggregates: dict[int, Aggregate] = {}
        self._attackers: list[UpdateBatch] = []
        self._failures: list[FailedClient] = []
        self._losses: list[tuple[IntArray, FloatArray]] = []
        self._uploaded = self._state_change = self._staged = 0

    def train(self, group: int, clients: IntArray, attack: bool = False) -> None:
        """Train clients of a group of the strategy, int64 [c], rows of the node's shard.

        Args:
            group: The group.
            clients: The clients.
            attack: Whether they are attackers: their updates are not summed here.

        Raises:
            ClientFailure: If a client fails and none may.
            NumericError: If a client's update is not finite and no client may fail.
        """
        node = self._node
        before, behind = node.experiment.transforms_around()
        transforms = before if attack else (*before, *behind)

        def attempt(
            rows: IntArray,
        ) -> tuple[UpdateBatch | Aggregate, dict[str, FloatArray], int, FloatArray]:
            update, private = self._update(rows, sums=not attack)
            losses = update.metrics["loss"] / np.maximum(update.metrics["examples"], 1.0)
            if transforms and not update.summed:
                positives = positives_of_clients(node.shard.take(rows))
                context = node.context(self._request.round)
                update, changed = transformed(transforms, update, private, positives, context)
                private |= changed
            if attack:
                check_finite(update)
                return update, private, 0, losses
            sent = update if node.strategy.sees_each else update.decoded()
            reduced = checked_sum(node.strategy, "reduce", len(rows), sent)
            return reduced, private, int(payload_bytes(update).sum()), losses

        for rows in self._cuts(clients[order_of(node.task, node.shard, clients)]):
            while len(rows):
                try:
                    result, private, uploaded, losses = attempt(rows)
                except Exception as error:
                    failing = failing_of(attempt, rows, error)
                    if not failing:
                        raise
                    self._failures += [self._failure(*each) for each in failing.items()]
                    rows = rows[~np.isin(rows, list(failing))]
                    continue
                if isinstance(result, Aggregate):
                    earlier = self._aggregates.get(group)
                    self._aggregates[group] = merged(node.strategy, earlier, result)
                else:
                    self._attackers.append(result)
                self._uploaded += uploaded
                self._losses.append((node.shard.client_ids[rows], losses))
                at, ticket = node.layout.positions(rows), self._request.ticket
                self._state_change += node.store.stage(ticket, at, private, str(self._staged))
                self._staged += 1
                break

    def trained(self, seconds: float) -> Trained:
        """Return the reply, given how long the node worked."""
        needed = "loss" in selection_of(self._node.experiment).needs
        reported = self._losses if needed else []
        return Trained(
            self._aggregates,
            tuple(self._failures),
            self._uploaded,
            seconds,
            self._state_change % CHECKSUMS,
            notes_of([self._node.together]),
            joined(self._attackers) if self._attackers else None,
            np.concatenate([np.zeros(0, np.int64), *(clients for clients, _ in reported)]),
            np.concatenate([np.zeros(0), *(losses for _, losses in reported)]),
            self._request.id,
        )

    def _update(self, rows: IntArray, sums: bool) -> tuple[UpdateBatch, dict[str, FloatArray]]:
        """Return the updates of some clients, perhaps summed, and all of their private values."""
        node, down = self._node, self._down
        places = np.searchsorted(self._request.clients, node.shard.client_ids[rows])
        private = node.store.get(node.layout.positions(rows))
        update, trained = train_clients(
            node.task,
            node.shard.take(rows),
            down.shared,
            private,
            self._request.round,
            node.chunk,
            node.popularity,
            node.summing if sums else None,
            node.together,
            down.take(places).own,
            node.in_kernel if sums and node.summing is not None else (),
        )
        return update, {**private, **trained}

    def _cuts(self, rows: IntArray) -> list[IntArray]:
        """Cut clients so that little is held at once (see `_HELD_BYTES`)."""
        node, task = self._node, self._node.task
        row, dense = (4 * task.size(*names) for names in (task.tables(), task.dense()))
        memory = task.resources.memory
        if memory is None:
            size = _HELD_BYTES if node.summing is None else _SUMMED_BYTES
            size = _MIXED_BYTES if self._down.own else size
            budget = max(size, _HELD_TABLES * node.shard.n_items * row)
        else:
            budget = memory // 2
        held = np.diff(capacity(node.shard, task)) * row + dense
        held += node.private_bytes(task, task.stored_specs())
        return [rows[cut] for cut in bounded_slices(offsets_of(held[rows]), budget)]

    def _failure(self, row: int, cause: Exception) -> FailedClient:
        """Return the failure of a client, or raise it if none may fail."""
        node = self._node
        client, reason = str(node.shard.client_ids[row]), line_of(cause)
        if node.experiment.rounds.max_failures == 0:
            if isinstance(cause, NumericError):
                raise NumericError(f"client {client}: {cause}") from cause
            raise ClientFailure(self._request.round, client, "train", reason) from cause
        if isinstance(cause, NumericError):
            reason += f"; {likely_causes(node.experiment, node.task)}"
        return FailedClient(client=client, reason=reason)


def order_of(task: ClientTask, shard: Shard, rows: IntArray) -> IntArray:
    """Return the order in which clients are computed, int64 [c], places among ``rows``."""
    if task.executor() != "vmap":
        return np.arange(len(rows))
    # Clients of a chunk are filled up to equal length.
    return np.argsort(-shard.examples()[rows], kind="stable")
