"""The round loop: what a plan asks of clients, what comes back, and what follows from it."""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np
from flwr.serverapp import Grid

from fedrec.aggregation.mix import unpacked
from fedrec.aggregation.reduce import download_bytes, metric_sums
from fedrec.aggregation.update import Aggregate, Aggregates, Down
from fedrec.compute.context import RoundContext
from fedrec.config.experiment import Experiment
from fedrec.data.catalogue import Catalogue
from fedrec.devices.timing import Timing
from fedrec.errors import ClientFailure, NumericError
from fedrec.evaluation.evaluate import Evaluation, merge
from fedrec.flower import records
from fedrec.flower.grid import EngineGrid
from fedrec.ragged import Ragged
from fedrec.runs.log import Bytes, Checkpoint, RoundRecord, Seconds
from fedrec.runs.recorder import End, Recorder
from fedrec.types import FailedClient, IntArray, Params, Split, State
from server.cohorts import Cohorts
from server.exchanges import Exchanges
from server.model import ServerModel
from server.node_states import NodeStates
from server.plans.base import (
    Answers,
    Exchange,
    LostNode,
    Question,
    Replies,
    RoundResult,
    plan_of,
)
from server.replies import Expected, ExpectedEvaluation
from server.roster import Roster

LOG = logging.getLogger("fedrec")
_SELECTION, _PLAN = "selection", "plan"
"""Parts of the state of a checkpoint."""


class RoundLoop:
    """Runs any `strategies.base.Strategy` with any round plan on any Flower grid.

    Client ids go out and sums come back; nothing depends on the order in which nodes answer.

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
        users_of: One row per client: the users it holds.
        checkpoint: Where the run continues: with the evaluation of that round; None: at its start.
        has_end: Whether clients train once more after the last round.
        timing: When replies arrive on the virtual clock; None: none runs.

    Attributes:
        in_real_time: Whether replies come when nodes send them; in a simulation all come at once.
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
        users_of: Ragged,
        checkpoint: Checkpoint | None = None,
        has_end: bool = False,
        timing: Timing | None = None,
    ) -> None:
        self.recorder, self.timing, self.in_real_time = recorder, timing, False
        self._experiment = experiment
        self._plan = plan_of(experiment)
        self._allowed, self._tables = tuple(allowed), tuple(tables)
        self._roster = roster
        self._request = request
        self._checkpoint = checkpoint
        self._has_end = has_end
        self._n_clients = sum(len(node.clients) for node in roster.values())
        self._node_states = NodeStates(roster, checkpoint.node_states if checkpoint else None)
        self._catalogue = catalogue
        self._targets = experiment.evaluate.targets_of(split, experiment.seed)
        self._round = 0
        self._users, self._users_of = users, users_of
        context = self._context(0)
        self.model = ServerModel(experiment, params, roster, split, context)
        self._cohorts = Cohorts(experiment, roster, context)
        self._plan_state = self._plan.init(context)
        if checkpoint is not None:
            self.model.restore(checkpoint.params, checkpoint.state)
            self._cohorts.state = checkpoint.state.part(_SELECTION)
            self._plan_state = checkpoint.state.part(_PLAN)
            self._round = checkpoint.record.round
        self._bytes: Counter[str] = Counter()
        self._notes: set[str] = set()
        self._evaluation: Evaluation | None = None

    def _context(self, round: int, cohort: IntArray | None = None) -> RoundContext:
        seed, items = self._experiment.seed, self._catalogue
        n, targets = self._n_clients, self._targets
        members = np.zeros(0, np.int64) if cohort is None else cohort
        return RoundContext(seed, round, n, items.n_items, members, targets, catalogue=items)

    def run(self, grid: Grid) -> None:
        """Run the rounds of the experiment."""
        rounds, resumed = self._experiment.rounds, self._checkpoint
        status, number = "completed", 0
        self.in_real_time = not isinstance(grid, EngineGrid)
        self._exchanges = Exchanges(
            grid,
            self._roster,
            self._node_states,
            self._allowed,
            self.expected(),
            ExpectedEvaluation(
                self._experiment.evaluate.parsed(),
                self._catalogue.n_items,
                self._users,
                self._users_of,
            ),
            self.model.attackers,
        )
        try:
            for number in range(resumed.record.round if resumed else 1, rounds.count + 1):
                due = number % self._experiment.evaluate.every == 0 or number == rounds.count
                if resumed is not None:
                    record, due, resumed = resumed.record, due or resumed.evaluates, None
                else:
                    record = self._train(number)
                    states = self._node_states.stored()
                    parts = self._checkpoint_state()
                    self.recorder.checkpoint(record, self.model.params, parts, due, states)
                if due:
                    record = self._rank(record)
                model = self._stored() if due else {}
                self.recorder.record(record, self._evaluation if due else None, model)
                stale = self.recorder.tally.stale
                if due and rounds.patience is not None and stale >= rounds.patience:
                    status = "early_stop"
                    break
            end = self._end() if self._has_end else None
        except KeyboardInterrupt:
            self.recorder.finish("interrupted", self._stored())
            raise
        except NumericError as error:
            raise self.recorder.diverged(number, error, self._stored()) from error
        self.recorder.finish(status, self._stored(), end=end, notes=self.model.notes())

    def _checkpoint_state(self) -> State:
        """Return all that the server remembers beside the parameters."""
        parts = {_SELECTION: self._cohorts.state, _PLAN: self._plan_state}
        return State.joined({**self.model.states(), **parts})

    def _train(self, number: int) -> RoundRecord:
        """Train and aggregate a round; return its record before its evaluation."""
        began = time.perf_counter()
        self._round, self._bytes = number, Counter()
        self._exchanges.bytes.clear()
        steps = self._plan.run(self._plan_state, self, self._context(number))
        try:
            exchange = next(steps)
            while True:
                exchange = steps.send(self._carry_out(exchange))
        except StopIteration as end:
            result: RoundResult = end.value
        aggregates = self._apply(result) if result.replies.usable else {}
        self._plan_state = result.state
        sums, busy = metric_sums(aggregates.values()), defaultdict[int, float](float)
        for reply in result.replies.usable:
            busy[reply.number] += reply.trained.seconds
            self._tell(reply.trained.notes)
        idle = max(busy.values()) - sum(busy.values()) / len(busy) if busy else 0.0
        return RoundRecord(
            round=number,
            clients=sum(aggregate.clients for aggregate in aggregates.values()),
            failures=_failures(result.replies),
            lost=_described(result.replies.lost),
            loss=sums["loss"] / sums["examples"] if sums.get("examples") else None,
            seconds=Seconds(train=time.perf_counter() - began, idle=idle),
            bytes=Bytes(**self._bytes + Counter(result.bytes)),
            simulation=Bytes(**self._exchanges.bytes),
            virtual=result.virtual,
            **result.log,
        )

    def _carry_out(self, step: Exchange | Question) -> Replies | Answers:
        """Let the clients of an exchange train, or answer a question of the plan."""
        clients, best = step.clients, self.recorder.tally.best
        if step.down is not None:
            self._bytes["down"] += download_bytes(step.down) * len(clients)
        request = replace(self._request, round=self._round, best=best.round if best else 0)
        replies: Replies | Answers
        if isinstance(step, Question):
            replies = self._exchanges.ask(step, request, self.groups(clients))
        else:
            replies = self._exchanges.train(step, request, self.groups(clients))
            self._bytes["up"] += sum(reply.trained.uploaded for reply in replies.usable)
        for node in replies.lost:
            LOG.warning(f"{len(node.clients)} clients are lost: {node.error}")
        return replies

    def _apply(self, result: RoundResult) -> dict[int, Aggregate]:
        """Apply the updates of a round; return what was applied, by group.

        Raises:
            ClientFailure: If more clients failed than may.
            EngineError: If no client succeeded.
        """
        replies = result.replies
        failures, most = _failures(replies), self._experiment.rounds.max_failures
        if len(failures) > most:
            first, more = failures[0], len(failures) - 1
            client = first.client + (f" (and {more} more)" if more else "")
            reason = f"{first.reason}; rounds.max_failures is {most}"
            raise ClientFailure(self._round, client, "train", reason)
        context = self._context(self._round, replies.clients)
        aggregates, uploaded = self.model.apply(replies, result.aggregates, context)
        self._bytes["up"] += uploaded
        self._cohorts.learn([reply.trained for reply in replies.usable], context)
        self._node_states.apply(replies)
        return aggregates

    def _rank(self, record: RoundRecord) -> RoundRecord:
        """Let all users rank; return the record of the round with what that took."""
        began, best = time.perf_counter(), self.recorder.tally.best
        self._exchanges.bytes = Counter(record.simulation.model_dump())
        request = replace(self._request, round=record.round, best=best.round if best else 0)
        missing = self._evaluate(request, self.model.published(self._context(record.round)))
        seconds = record.seconds.model_copy(update={"evaluate": time.perf_counter() - began})
        simulation = Bytes(**self._exchanges.bytes)
        update = {"seconds": seconds, "simulation": simulation, "missing_users": missing}
        return record.model_copy(update=update)

    def _end(self) -> End:
        """Let all clients train the phases of the end, from the chosen round, and rank."""
        began, best = time.perf_counter(), self.recorder.tally.best
        assert best is not None
        self._exchanges.bytes.clear()
        request = replace(self._request, round=best.round, best=best.round, end=True)
        self._evaluate(request, unpacked(self.recorder.best_model()))
        assert self._evaluation is not None
        simulation = Bytes(**self._exchanges.bytes)
        return End(self._evaluation, time.perf_counter() - began, simulation)

    def _evaluate(self, request: records.RoundRequest, down: Down) -> int:
        """Let the users of all clients rank; return how many are missing.

        Raises:
            FedRecError: If fewer clients answer than the plan needs.
        """
        everybody = np.arange(self._n_clients, dtype=np.int64)
        groups = self.model.groups(everybody)
        deadline = self._plan.deadline_of_evaluation
        evaluations, lost = self._exchanges.evaluate(request, everybody, down, groups, deadline)
        n_lost = sum(len(node.clients) for node in lost)
        if self._n_clients - n_lost < self._plan.quorum_of_evaluation * self._n_clients:
            raise lost[0].error
        self._evaluation = merge(evaluations)
        self._tell(self._evaluation.notes)
        missing = len(self._users) - len(self._evaluation.users)
        if missing:
            self._tell(
                [
                    f"evaluations are of those users whose nodes answer: {missing} of "
                    f"{len(self._users)} are missing in round {request.round}"
                ]
            )
        return missing

    def _stored(self) -> Params:
        """Return what the run leaves behind as its model."""
        return self.model.stored(self._context(self._round))

    def size(self) -> int:
        """Return how many clients the experiment asks for in a round."""
        return self._cohorts.size

    def choose(self, size: int) -> IntArray:
        """Return the clients of the round as the selection chooses them, int64, sorted."""
        return self._cohorts.choose(size, self._context(self._round))

    def down(self, clients: IntArray) -> Down:
        """Return what the strategy sends to some clients, int64 [c], sorted."""
        return self.model.down(clients, self._context(self._round, clients))

    def sums(self, replies: Replies) -> Aggregates:
        """Return the sum of the updates of each group."""
        return self.model.sums(replies)

    def merged(self, parts: Iterable[Aggregates]) -> Aggregates:
        """Return sums of updates, each by group, added up; in any order with the same bits."""
        return self.model.merged(parts)

    def groups(self, clients: IntArray) -> IntArray:
        """Return the group of each client in the strategy, int64 [c]."""
        return self.model.groups(clients)

    def expected(self) -> Expected:
        """Return what clients send in every round."""
        return self.model.sent(self._tables)

    def _tell(self, notes: Iterable[str]) -> None:
        """Tell what nodes want the user to know, each line once."""
        for note in notes:
            if note not in self._notes:
                self._notes.add(note)
                LOG.warning(note)


def _failures(replies: Replies) -> tuple[FailedClient, ...]:
    return tuple(failure for reply in replies.usable for failure in reply.trained.failures)


def _described(lost: Iterable[LostNode]) -> tuple[FailedClient, ...]:
    """Return the nodes that are lost as the run log has them."""
    return tuple(
        FailedClient(
            client=f"node {node.number}, {len(node.clients)} clients", reason=str(node.error)
        )
        for node in lost
    )
