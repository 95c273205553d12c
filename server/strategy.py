"""The one Flower strategy: it wraps a pure strategy and runs the rounds."""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from flwr.serverapp.strategy import Strategy as FlwrStrategy

from fedrec.aggregation.codec import payload_bytes
from fedrec.aggregation.mix import packed, unpacked
from fedrec.aggregation.reduce import (
    download_bytes,
    metric_sums,
    sorted_by_client,
)
from fedrec.aggregation.returned import (
    checked_aggregate,
    checked_apply,
    checked_broadcast,
    checked_groups,
    checked_init,
    checked_sum,
    merged,
    stored_state,
)
from fedrec.aggregation.update import Aggregate, Down, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.config.experiment import Experiment
from fedrec.data.catalogue import Catalogue
from fedrec.errors import ClientFailure, EngineError, NumericError
from fedrec.evaluation.evaluate import Evaluation
from fedrec.flower import records
from fedrec.ragged import Ragged
from fedrec.runs.log import Bytes, Checkpoint, RoundRecord, Seconds
from fedrec.runs.recorder import End, Recorder
from fedrec.training.client_rule import client_rule_of
from fedrec.transforms.pipeline import transformed
from fedrec.types import FailedClient, IntArray, Params, Split, State
from server.cohorts import Cohorts
from server.node_states import NodeStates
from server.replies import Expected, read_evaluations, read_trained
from server.roster import Roster, deal, exchange
from strategies.base import strategy_of
from strategies.selections.base import selection_of

LOG = logging.getLogger("fedrec")
_STRATEGY, _ATTACK, _SELECTION = "strategy", "attack", "selection"
"""Parts of the state of a checkpoint."""


class FlowerStrategy(FlwrStrategy):
    """Runs any `strategies.base.Strategy` on any Flower grid.

    Flower's own loop cannot stop early, choose a round or count bytes, so `start` is ours. Client
    ids go out and sums come back; nothing depends on the order in which nodes answer.

    Args:
        experiment: What is run.
        params: The initial shared parameters.
        tables: Names of those that are item tables.
        allowed: Names that may travel.
        roster: Who hosts whom.
        request: Names the run, in every message.
        recorder: Writes the run folder, and knows the best round.
        catalogue: What is known of the items.
        split: The data of honest clients, of which attackers take what they are said to know.
        users: int64, who ranks.
        checkpoint: Where the run continues: with the evaluation of that round; None: at its start.
        has_end: Whether clients train once more after the last round.
    """

    def __init__(
        self,
        experiment: Experiment,
        params: Params,
        tables: Collection[str],
        allowed: Iterable[str],
        roster: Roster,
        request: records.RoundRequest,
        recorder: Recorder,
        catalogue: Catalogue,
        split: Split,
        users: IntArray,
        checkpoint: Checkpoint | None = None,
        has_end: bool = False,
    ) -> None:
        self.strategy = strategy_of(experiment)
        self.recorder = recorder
        self._experiment = experiment
        self._allowed = tuple(allowed)
        self._roster = roster
        self._request = request
        self._checkpoint = checkpoint
        self._has_end = has_end
        self._n_clients = sum(len(node.clients) for node in roster.values())
        self._node_states = NodeStates(roster, checkpoint.node_states if checkpoint else None)
        self._catalogue = catalogue
        self._targets = experiment.evaluate.targets_of(split, experiment.seed)
        self._round, self._cohort = 0, np.zeros(0, np.int64)
        self.params = params
        self._users = users
        self._rule = client_rule_of(self.strategy)
        self._expected = self._sent(tables)
        self.state = checked_init(self.strategy, params, self._context(0))
        self._cohorts = Cohorts(experiment, roster, self._context(0))
        attack = experiment.attack
        self._attackers_state, self._attackers = State(), np.zeros(0, np.int64)
        if attack is not None:
            self._attackers = attack.attackers(self._context(0))
            where, state = f"attack {type(attack).__name__}", attack.init(split, self._context(0))
            self._attackers_state = stored_state(f"{where}: init", state)
        if checkpoint is not None:
            self.params, self.state = checkpoint.params, checkpoint.state.part(_STRATEGY)
            self._attackers_state = checkpoint.state.part(_ATTACK)
            self._cohorts.state = checkpoint.state.part(_SELECTION)
            self._round = checkpoint.record.round
        self._asked: dict[int, records.RoundRequest] = {}
        self._bytes: Counter[str] = Counter()
        self._simulation: Counter[str] = Counter()
        self._aggregates: dict[int, Aggregate] = {}
        self._failures: list[FailedClient] = []
        self._told: set[str] = set()
        self._idle = 0.0
        self._evaluation: Evaluation | None = None

    def _sent(self, tables: Collection[str]) -> Expected:
        """Return what clients send in every round."""
        shapes, of_items = dict[str, tuple[int, ...]](), list[str]()
        for name, value in self.params.items():
            sent = [name, *(f"{name}/{kind}" for kind in self._rule.up)]
            shapes |= dict.fromkeys(sent, np.shape(value))
            of_items += sent if name in tables else []
        metrics = {"loss", "examples", *getattr(self.strategy, "measures", ())}
        reports = "loss" in selection_of(self._experiment).needs
        return Expected(shapes, of_items, metrics, reports)

    @property
    def published(self) -> Params:
        """What the run leaves behind as its model."""
        return packed(self.strategy.published(self.state, self.params, self._context(self._round)))

    def _context(self, round: int) -> RoundContext:
        seed, items = self._experiment.seed, self._catalogue
        n, cohort, targets = self._n_clients, self._cohort, self._targets
        return RoundContext(seed, round, n, items.n_items, cohort, targets, catalogue=items)

    def start(self, grid: Grid, *_: Any, **__: Any) -> Result:
        """Run the rounds of the experiment; Flower's other arguments are not used.

        Returns:
            Flower's result: the shared parameters after the last round.
        """
        rounds, resumed = self._experiment.rounds, self._checkpoint
        status, number = "completed", 0
        try:
            for number in range(resumed.record.round if resumed else 1, rounds.count + 1):
                due = number % self._experiment.evaluate.every == 0 or number == rounds.count
                if resumed is not None:
                    record, due, resumed = resumed.record, due or resumed.evaluates, None
                else:
                    record = self._train(number, grid)
                    states = self._node_states.stored()
                    self.recorder.checkpoint(record, self.params, self._parts(), due, states)
                if due:
                    record = self._rank(record, grid)
                model = self.published if due else {}
                self.recorder.record(record, self._evaluation if due else None, model)
                stale = self.recorder.tally.stale
                if due and rounds.patience is not None and stale >= rounds.patience:
                    status = "early_stop"
                    break
            end = self._end(grid) if self._has_end else None
        except KeyboardInterrupt:
            self.recorder.finish("interrupted", self.published)
            raise
        except NumericError as error:
            raise self.recorder.diverged(number, error, self.published) from error
        notes = self.strategy.notes(self.state)
        self.recorder.finish(status, self.published, end=end, notes=notes)
        return Result(arrays=records.encode_params(self.params, self._allowed))

    def _parts(self) -> State:
        """Return all that the server remembers beside the parameters."""
        states = {_ATTACK: self._attackers_state, _SELECTION: self._cohorts.state}
        return State.joined({_STRATEGY: self.state, **states})

    def _train(self, number: int, grid: Grid) -> RoundRecord:
        """Train and aggregate a round; return its record before its evaluation."""
        began = time.perf_counter()
        self._bytes, self._simulation = Counter(), Counter()
        self._round, self._cohort = number, np.zeros(0, np.int64)
        self._cohort = self._cohorts.choose(self._context(number))
        if not len(self._cohort):
            return RoundRecord(round=number, clients=0)
        self.aggregate_train(number, self._exchange(grid, number, self.configure_train(number)))
        sums = metric_sums(self._aggregates.values())
        return RoundRecord(
            round=number,
            clients=sum(aggregate.clients for aggregate in self._aggregates.values()),
            failures=tuple(self._failures),
            loss=sums["loss"] / sums["examples"] if sums["examples"] else None,
            seconds=Seconds(train=time.perf_counter() - began, idle=self._idle),
            bytes=Bytes(**self._bytes),
            simulation=Bytes(**self._simulation),
        )

    def _rank(self, record: RoundRecord, grid: Grid) -> RoundRecord:
        """Let all users rank; return the record of the round with what that took."""
        began, self._simulation = time.perf_counter(), Counter(record.simulation.model_dump())
        messages = self.configure_evaluate(record.round)
        self.aggregate_evaluate(record.round, self._exchange(grid, record.round, messages))
        seconds = record.seconds.model_copy(update={"evaluate": time.perf_counter() - began})
        simulation = Bytes(**self._simulation)
        return record.model_copy(update={"seconds": seconds, "simulation": simulation})

    def _end(self, grid: Grid) -> End:
        """Let all clients train the phases of the end, from the chosen round, and rank."""
        began, best, self._simulation = time.perf_counter(), self.recorder.tally.best, Counter()
        assert best is not None
        everybody = np.arange(self._n_clients, dtype=np.int64)
        model = unpacked(self.recorder.best_model())
        request = replace(self._request, round=best.round, best=best.round, end=True)
        messages = self._addressed(records.EVALUATE, request, everybody, model)
        self.aggregate_evaluate(best.round, self._exchange(grid, best.round, messages))
        assert self._evaluation is not None
        simulation = Bytes(**self._simulation)
        return End(self._evaluation, time.perf_counter() - began, simulation)

    def configure_train(self, server_round: int, *_: Any, **__: Any) -> Iterator[Message]:
        """To each node that hosts clients of the cohort, one message."""
        chosen, context = self._cohort, self._context(server_round)
        down = checked_broadcast(
            self.strategy, self._rule, self.state, self.params, chosen, context
        )
        best = self.recorder.tally.best
        request = replace(
            self._request,
            round=server_round,
            best=best.round if best else 0,
        )
        self._bytes["down"] += download_bytes(down) * len(chosen)
        return self._addressed(records.TRAIN, request, chosen, down)

    def configure_evaluate(self, server_round: int, *_: Any, **__: Any) -> Iterator[Message]:
        """As for training, but all clients are meant: all of them rank."""
        everybody = np.arange(self._n_clients, dtype=np.int64)
        best = self.recorder.tally.best
        best_round = best.round if best else 0
        request = replace(self._request, round=server_round, best=best_round)
        down = self.strategy.published(self.state, self.params, self._context(server_round))
        return self._addressed(records.EVALUATE, request, everybody, down)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[None, None]:
        """Merge the nodes' answers, group by group, and apply the strategy.

        Raises:
            ClientFailure: If more clients failed than may.
            EngineError: If no client succeeded.
        """
        aggregates: dict[int, Aggregate] = {}
        attackers: list[UpdateBatch] = []
        busy: defaultdict[int, float] = defaultdict(float)
        answers: list[records.Trained] = []
        self._failures = []
        for node, trained in read_trained(replies, self._asked, self._attackers, self._expected):
            answers.append(trained)
            self._failures += trained.failures
            self._tell(trained.notes)
            self._bytes["up"] += trained.uploaded
            busy[node] += trained.seconds
            partition = self._roster[node].partition
            self._node_states.apply(partition, [(self._asked[node], trained)])
            for group, aggregate in trained.aggregates.items():
                group = partition if self.strategy.by_node else group
                aggregates[group] = merged(self.strategy, aggregates.get(group), aggregate)
            if trained.attackers is not None:
                attackers.append(trained.attackers)
        self._idle = max(busy.values()) - sum(busy.values()) / len(busy) if busy else 0.0
        most = self._experiment.rounds.max_failures
        if len(self._failures) > most:
            first, more = self._failures[0], len(self._failures) - 1
            client = first.client + (f" (and {more} more)" if more else "")
            reason = f"{first.reason}; rounds.max_failures is {most}"
            raise ClientFailure(server_round, client, "train", reason)
        if attackers:
            self._rewrite(sorted_by_client(attackers), aggregates)
        if not aggregates:
            raise EngineError(f"round {server_round}: no client of the cohort succeeded")
        context = self._context(server_round)
        for transform in self._experiment.transforms:
            where = f"transform {type(transform).__name__}: on_aggregate"
            for group, aggregate in aggregates.items():
                returned = transform.on_aggregate(aggregate, context)
                aggregates[group] = checked_aggregate(where, returned, aggregate)
        self._cohorts.learn(answers, context)
        self._aggregates = dict(sorted(aggregates.items()))
        self.state, self.params = checked_apply(
            self.strategy, self.state, self.params, self._aggregates, context
        )
        return None, None

    def _rewrite(self, pool: UpdateBatch, aggregates: dict[int, Aggregate]) -> None:
        """Let the attackers of the round rewrite their updates, and sum them with the others'."""
        attack, context = self._experiment.attack, self._context(self._round)
        assert attack is not None
        self._attackers_state, update = attack.sent(
            self._attackers_state, pool, self.params, context
        )
        _, behind = self._experiment.transforms_around()
        nothing = Ragged(np.zeros(len(update.client_ids) + 1, np.int64), np.zeros(0, np.int64))
        update, _ = transformed(behind, update, {}, nothing, context)
        self._bytes["up"] += int(payload_bytes(update).sum())
        update = update.decoded()
        groups = checked_groups(self.strategy, self.state, update.client_ids).copy()
        for answer in self._roster.values() if self.strategy.by_node else ():
            groups[np.isin(update.client_ids, answer.clients)] = answer.partition
        for group in np.unique(groups).tolist():
            of_group = update.take(np.flatnonzero(groups == group))
            n = len(of_group.client_ids)
            aggregate = checked_sum(self.strategy, "reduce", n, of_group)
            # The loss of the run is that of honest clients.
            aggregate = replace(aggregate, metrics=dict.fromkeys(aggregate.metrics, 0))
            aggregates[group] = merged(self.strategy, aggregates.get(group), aggregate)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> None:
        """Join the nodes' metric values, user by user."""
        metrics = self._experiment.evaluate.parsed()
        n_items, users = self._catalogue.n_items, self._users
        self._evaluation = read_evaluations([*replies], self._asked, metrics, n_items, users)
        self._tell(self._evaluation.notes)

    def _tell(self, notes: Iterable[str]) -> None:
        """Tell what nodes want the user to know, each line once."""
        for note in notes:
            if note not in self._told:
                self._told.add(note)
                LOG.warning(note)

    def summary(self) -> None:
        """Flower prints one here; the run folder holds it instead."""

    def _addressed(
        self, kind: str, request: records.RoundRequest, clients: IntArray, down: Down
    ) -> Iterator[Message]:
        """Yield one message for each node that hosts some of the clients, int64 [c], sorted."""
        broadcast = records.Broadcast(down, self._allowed)
        groups = checked_groups(self.strategy, self.state, clients)
        for node, hosted in deal(self._roster, clients):
            at = np.searchsorted(clients, hosted)
            number = self._roster[node].partition
            attempt = self._node_states.next_attempt(number, request.round)
            asked = replace(request, clients=hosted, groups=groups[at], attempt=attempt)
            self._asked[node] = replace(asked, applied=self._node_states.applied(number))
            content = records.encode(self._asked[node])
            content[records.PARAMS] = broadcast.record(at)
            yield Message(content, node, kind, group_id=str(request.round))

    def _exchange(self, grid: Grid, number: int, messages: Iterable[Message]) -> list[Message]:
        sent = list(messages)
        replies = exchange(grid, sent, f"round {number}")
        for way, carried in (("down", sent), ("up", replies)):
            self._simulation[way] += sum(records.byte_count(message) for message in carried)
        return replies
