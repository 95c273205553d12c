"""The one Flower strategy: it wraps a pure strategy and runs the rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from flwr.serverapp.strategy import Strategy as FlwrStrategy

from fedrec.aggregation.payload import download_bytes
from fedrec.aggregation.reduce import metric_sums
from fedrec.errors import ClientFailure, EngineError, NumericError
from fedrec.evaluation.evaluate import Evaluation, merge
from fedrec.flower import records
from fedrec.runs.checkpoint import Checkpoint
from fedrec.runs.log import Bytes, RoundRecord, Seconds
from fedrec.runs.recorder import Recorder
from fedrec.types import Aggregate, FailedClient, IntArray, Params
from server.cohorts import cohort
from server.returned import checked_apply, checked_broadcast, checked_groups, checked_init
from server.roster import Roster, exchange
from strategies.base import Strategy

__all__ = ["FlowerStrategy", "Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How the rounds run.

    Args:
        seed: of the run.
        n_clients: all clients.
        cohort_size: clients in a round.
        rounds: rounds at most.
        every: rounds between evaluations.
        patience: evaluations without a better one before the run stops; None: never.
        max_failures: clients that may fail in a round.
    """

    seed: int
    n_clients: int
    cohort_size: int
    rounds: int
    every: int
    patience: int | None
    max_failures: int


class FlowerStrategy(FlwrStrategy):
    """Runs any `strategies.base.Strategy` on any Flower grid.

    Flower's own loop cannot stop early, choose a round or count bytes, so `start` is ours. Client
    ids go out and sums come back; nothing depends on the order in which nodes answer.

    Args:
        strategy: What is done with the updates.
        params: The initial global parameters.
        allowed: Names that may travel.
        roster: Who hosts whom.
        request: Run id and folders, for every message.
        plan: How the rounds run.
        recorder: Writes the run folder, and knows the best round.
    """

    def __init__(
        self,
        strategy: Strategy,
        params: Params,
        allowed: Iterable[str],
        roster: Roster,
        request: records.RoundRequest,
        plan: Plan,
        recorder: Recorder,
    ) -> None:
        self.strategy = strategy
        self.params = params
        self.state = checked_init(strategy, params, plan.n_clients)
        self.recorder = recorder
        self._node_states = dict(roster.states)
        self._allowed = tuple(allowed)
        self._roster = roster
        self._request = request
        self._plan = plan
        self._checkpoint: Checkpoint | None = None
        self._bytes = {"up": 0, "down": 0}
        self._simulation = {"up": 0, "down": 0}
        self._sent: dict[tuple[int, tuple[str, ...]], tuple[ArrayRecord, int]] = {}
        self._aggregates: Mapping[int, Aggregate] = {}
        self._idle = 0.0
        self._number = 0
        self._failures: tuple[FailedClient, ...] = ()
        self._evaluation: Evaluation | None = None

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int = 0,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the rounds of the plan; the arguments after ``grid`` are Flower's and not used.

        Returns:
            Flower's result: the global parameters after the last round.
        """
        try:
            status = self._rounds(grid)
        except NumericError as error:
            raise self.recorder.diverged(self._number, error, self.published) from error
        self.recorder.finish(status, self.published)
        return Result(arrays=records.encode_params(self.params, self._allowed))

    def _rounds(self, grid: Grid) -> str:
        """Run the rounds; return ``completed`` or ``early_stop``."""
        patience = self._plan.patience
        config, arrays = ConfigRecord(), ArrayRecord()
        checkpoint = self._checkpoint
        for number in range(checkpoint.record.round if checkpoint else 1, self._plan.rounds + 1):
            self._number = number
            due = number % self._plan.every == 0 or number == self._plan.rounds
            if checkpoint is not None and number == checkpoint.record.round:
                record, due = checkpoint.record, due or checkpoint.evaluates
            else:
                record = self._train(number, arrays, config, grid)
                self.recorder.check_loss(record)
                self.recorder.checkpoint(record, self.params, self.state, due, self._node_states)
            evaluation: Evaluation | None = None
            if due:
                record, evaluation = self._rank(record, arrays, config, grid)
            self.recorder.record(record, evaluation, self.published)
            if due and patience is not None and self.recorder.stale >= patience:
                return "early_stop"
        return "completed"

    @property
    def published(self) -> Params:
        """What the run leaves behind as its model."""
        return self.strategy.published(self.state, self.params, self._plan.n_clients)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Let `start` begin after the round of a checkpoint, with that round's evaluation."""
        self.params, self.state = checkpoint.params, checkpoint.state
        self._checkpoint = checkpoint
        self._sent.clear()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """To each node that hosts clients of the cohort, one message for each of their groups."""
        chosen = cohort(self._plan.seed, server_round, self._plan.n_clients, self._plan.cohort_size)
        return self._messages(
            self._request_of(server_round, server_round - 1), chosen, records.TRAIN
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Merge the nodes' answers, group by group, and apply the strategy.

        Raises:
            ClientFailure: If more clients failed than may.
            EngineError: If no client succeeded.
        """
        aggregates: dict[int, Aggregate] = {}
        failures: list[FailedClient] = []
        busy: dict[int, float] = {}
        for reply in replies:
            trained = records.decode_trained(reply.content)
            failures += trained.failures
            self._bytes["up"] += trained.uploaded
            node = reply.metadata.src_node_id
            busy[node] = busy.get(node, 0.0) + trained.seconds
            if trained.aggregate is not None:
                self._note_state(server_round, node, trained.state_change)
                known = aggregates.get(trained.group)
                aggregates[trained.group] = (
                    trained.aggregate
                    if known is None
                    else self.strategy.merge(known, trained.aggregate)
                )
        self._failures = tuple(failures)
        self._idle = max(busy.values()) - sum(busy.values()) / len(busy) if busy else 0.0
        if len(failures) > self._plan.max_failures:
            first = failures[0]
            more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
            raise ClientFailure(
                server_round,
                first.client + more,
                "train",
                f"{first.reason}; rounds.max_failures is {self._plan.max_failures}",
            )
        if not aggregates:
            raise EngineError(f"round {server_round}: no client of the cohort succeeded")
        self._aggregates = dict(sorted(aggregates.items()))
        self.state, self.params = checked_apply(
            self.strategy, self.state, self.params, self._aggregates, server_round
        )
        self._sent.clear()
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As for training, but all clients are meant: all of them rank."""
        every = np.arange(self._plan.n_clients, dtype=np.int64)
        return self._messages(self._request_of(server_round, server_round), every, records.EVALUATE)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Join the nodes' metric values, user by user."""
        self._evaluation = merge([records.decode_evaluation(reply.content) for reply in replies])
        return None

    def summary(self) -> None:
        """Flower prints one here; the run folder holds it instead."""

    def _note_state(self, round: int, node: int, change: int) -> None:
        if self._node_states:
            number = str(self._roster.numbers[self._roster.node_ids.index(node)])
            checksum = (self._node_states[number][1] + change) % 2**64
            self._node_states[number] = (round, checksum)

    def _messages(
        self, request: records.RoundRequest, clients: IntArray, message_type: str
    ) -> Iterator[Message]:
        training = message_type == records.TRAIN
        for node, hosted in self._roster.deal(clients):
            group = checked_groups(self.strategy, self.state, hosted)
            for number in np.unique(group).tolist():
                chosen = hosted[group == number]
                # A request for all clients of a node need not list them.
                listed = None if not training and len(chosen) == len(hosted) else chosen
                encoded, size = self._encoded(number, training)
                if training:
                    self._bytes["down"] += size * len(chosen)
                content = records.encode_request(replace(request, group=number), encoded, listed)
                yield Message(content, node, message_type, group_id=str(request.round))

    def _encoded(self, group: int, training: bool) -> tuple[ArrayRecord, int]:
        """Encode what a client of a group receives, once for all; to rank it receives less.

        Returns:
            The arrays, and their bytes by `fedrec.aggregation.payload.download_bytes`.
        """
        sent = checked_broadcast(self.strategy, self.state, self.params, group)
        names = tuple(sent if training else self.params)
        if (group, names) not in self._sent:
            wanted = {name: sent[name] for name in names}
            encoded = records.encode_params(wanted, self._allowed)
            self._sent[group, names] = encoded, download_bytes(wanted)
        return self._sent[group, names]

    def _request_of(self, round: int, committed: int) -> records.RoundRequest:
        return replace(
            self._request, round=round, committed=committed, best=self.recorder.best_round or 0
        )

    def _exchange(self, grid: Grid, number: int, messages: Iterable[Message]) -> list[Message]:
        sent = []
        for message in messages:
            self._simulation["down"] += records.byte_count(message)
            sent.append(message)
        replies = exchange(grid, sent, f"round {number}")
        self._simulation["up"] += sum(records.byte_count(reply) for reply in replies)
        return replies

    def _train(
        self, number: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> RoundRecord:
        """Train and aggregate a round; what is known of it before its evaluation."""
        began = time.perf_counter()
        self._bytes, self._simulation = {"up": 0, "down": 0}, {"up": 0, "down": 0}
        messages = self.configure_train(number, arrays, config, grid)
        self.aggregate_train(number, self._exchange(grid, number, messages))
        sums = metric_sums(self._aggregates.values())
        return RoundRecord(
            round=number,
            clients=sum(aggregate.clients for aggregate in self._aggregates.values()),
            failures=self._failures,
            loss=sums["loss"] / max(sums["examples"], 1.0),
            seconds=Seconds(train=time.perf_counter() - began, idle=self._idle),
            bytes=Bytes(**self._bytes),
            simulation=Bytes(**self._simulation),
        )

    def _rank(
        self, record: RoundRecord, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> tuple[RoundRecord, Evaluation | None]:
        """Let all users rank; the record of the round with what that took, and the evaluation."""
        began, self._simulation = time.perf_counter(), {"up": 0, "down": 0}
        messages = self.configure_evaluate(record.round, arrays, config, grid)
        self.aggregate_evaluate(record.round, self._exchange(grid, record.round, messages))
        seconds = record.seconds.model_copy(update={"evaluate": time.perf_counter() - began})
        simulation = Bytes(
            up=record.simulation.up + self._simulation["up"],
            down=record.simulation.down + self._simulation["down"],
        )
        update = {"seconds": seconds, "simulation": simulation}
        return record.model_copy(update=update), self._evaluation

    def __repr__(self) -> str:
        return f"FlowerStrategy({self.strategy!r})"
