"""The one Flower strategy: it wraps a pure strategy and runs the rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from flwr.serverapp.strategy import Strategy as FlwrStrategy

from fedrec.aggregation import metric_sums
from fedrec.cohorts import cohort
from fedrec.errors import ClientFailure, EngineError
from fedrec.evaluation import Evaluation, merge
from fedrec.flower import records
from fedrec.recorder import Recorder
from fedrec.runlog import Bytes, Failure, RoundRecord, Seconds
from fedrec.types import Params, Partial
from server.roster import Roster, exchange
from strategies.base import State, Strategy

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
        order: Run id and folders, for every message.
        plan: How the rounds run.
        recorder: Writes the run folder, and knows the best round.
    """

    def __init__(
        self,
        strategy: Strategy,
        params: Params,
        allowed: Iterable[str],
        roster: Roster,
        order: records.Order,
        plan: Plan,
        recorder: Recorder,
    ) -> None:
        self.strategy = strategy
        self.params = params
        self.state: State = strategy.init(params)
        self.recorder = recorder
        self._allowed = tuple(allowed)
        self._roster = roster
        self._order = order
        self._plan = plan
        self._traffic = {"up": 0, "down": 0}
        self._partial: Partial | None = None
        self._failures: tuple[Failure, ...] = ()
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
        stale = 0
        status = "completed"
        config = ConfigRecord()
        arrays = records.encode_params(self.params, self._allowed)
        for number in range(1, self._plan.rounds + 1):
            self._traffic = {"up": 0, "down": 0}
            began = time.perf_counter()
            self.aggregate_train(
                number,
                self._exchange(grid, number, self.configure_train(number, arrays, config, grid)),
            )
            arrays = records.encode_params(self.params, self._allowed)
            trained = time.perf_counter()
            evaluation = None
            if number % self._plan.every == 0 or number == self._plan.rounds:
                messages = self.configure_evaluate(number, arrays, config, grid)
                self.aggregate_evaluate(number, self._exchange(grid, number, messages))
                evaluation = self._evaluation
            better = self.recorder.record(
                self._record(number, trained - began, time.perf_counter() - trained),
                evaluation,
                self.params,
            )
            if evaluation is not None:
                stale = 0 if better else stale + 1
                if self._plan.patience is not None and stale >= self._plan.patience:
                    status = "early_stop"
                    break
        self.recorder.finish(status, self.params)
        return Result(arrays=arrays)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message to each node that hosts clients of the cohort."""
        chosen = cohort(self._plan.seed, server_round, self._plan.n_clients, self._plan.cohort_size)
        order = self._ordered(server_round, server_round - 1)
        for node, clients in self._roster.deal(chosen):
            content = records.encode_order(order, arrays, clients)
            yield Message(content, node, records.TRAIN, group_id=str(server_round))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Merge the nodes' sums and apply the strategy.

        Raises:
            ClientFailure: If more clients failed than may.
            EngineError: If no client succeeded.
        """
        partial: Partial | None = None
        failures: list[Failure] = []
        for reply in replies:
            trained = records.decode_trained(reply.content)
            failures += trained.failures
            if trained.partial is not None:
                partial = (
                    trained.partial
                    if partial is None
                    else self.strategy.merge(partial, trained.partial)
                )
        self._failures = tuple(failures)
        if len(failures) > self._plan.max_failures:
            first = failures[0]
            more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
            raise ClientFailure(
                server_round,
                first.client + more,
                "train",
                f"{first.reason}; rounds.max_failures is {self._plan.max_failures}",
            )
        if partial is None:
            raise EngineError(f"round {server_round}: no client of the cohort succeeded")
        self._partial = partial
        self.state, self.params = self.strategy.apply(self.state, self.params, partial)
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message to every node that hosts clients: all of them rank."""
        order = self._ordered(server_round, server_round)
        for node, _ in self._roster.deal(np.arange(self._plan.n_clients, dtype=np.int64)):
            content = records.encode_order(order, arrays)
            yield Message(content, node, records.EVALUATE, group_id=str(server_round))

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Join the nodes' metric values, user by user."""
        self._evaluation = merge([records.decode_evaluation(reply.content) for reply in replies])
        return None

    def summary(self) -> None:
        """Flower prints one here; the run folder holds it instead."""

    def _ordered(self, round: int, committed: int) -> records.Order:
        return replace(
            self._order, round=round, committed=committed, best=self.recorder.best_round or 0
        )

    def _exchange(self, grid: Grid, number: int, messages: Iterable[Message]) -> list[Message]:
        sent = []
        for message in messages:
            self._traffic["down"] += records.byte_count(message)
            sent.append(message)
        replies = exchange(grid, sent, f"round {number}")
        self._traffic["up"] += sum(records.byte_count(reply) for reply in replies)
        return replies

    def _record(self, number: int, train: float, evaluate: float) -> RoundRecord:
        assert self._partial is not None
        sums = metric_sums(self._partial)
        return RoundRecord(
            round=number,
            clients=self._partial.clients,
            failures=self._failures,
            loss=sums["loss"] / max(sums["examples"], 1.0),
            seconds=Seconds(train=train, evaluate=evaluate),
            bytes=Bytes(**self._traffic),
        )

    def __repr__(self) -> str:
        return f"FlowerStrategy({self.strategy!r})"
