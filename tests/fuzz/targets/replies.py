"""Replies of nodes: what passes the checks of the server can be merged and applied."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np
from flwr.app import Message, RecordDict

from fedrec.aggregation.reduce import metric_sums
from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.config.experiment import Experiment
from fedrec.errors import FedRecError, NumericError, ProtocolError
from fedrec.flower import decoding, records
from fedrec.flower.grid import claim_identity
from fedrec.flower.records import PrivateState, RollCall, RoundRequest, Trained
from fedrec.ragged import empty_rows
from fedrec.runs.log import RoundRecord
from fedrec.testing.trial import Trial, small_split
from fedrec.transforms.base import Transform
from fedrec.transforms.pipeline import transformed
from fedrec.types import FailedClient, IntArray, State
from server import replies
from server.cohorts import Cohorts
from server.model import ServerModel
from server.node_states import NodeStates
from server.plans.base import Replies, Reply
from server.replies import Expected, read_trained
from strategies import STRATEGIES
from strategies.base import strategy_of
from tests.fuzz.files import Files
from tests.fuzz.targets.base import Target
from tests.fuzz.targets.messages import files_of, message_of
from tests.fuzz.targets.updates import FORMS

_STRATEGY = "strategy"
_OPTIONS: Mapping[str, Mapping[str, Any]] = {"clustered": {"warmup": 1, "clusters": 2}}


def reply_of(content: RecordDict, node: int) -> Message:
    """Return the reply of a node, as the server receives it."""
    claim_identity()
    return Message(content, reply_to=Message(RecordDict(), node, records.TRAIN))


@dataclass(frozen=True)
class _Round:
    """The second round of a strategy, in which the server has asked two nodes.

    Args:
        experiment: What is run.
        model: What the server trains.
        before: What it remembers as the round begins.
        expected: What clients send.
        roster: The nodes.
        context: The round.
        requests: What each node is asked.
        content: What each node replies.
    """

    experiment: Experiment
    model: ServerModel
    before: State
    expected: Expected
    roster: Mapping[int, RollCall]
    context: RoundContext
    requests: Mapping[int, RoundRequest]
    content: Mapping[int, RecordDict]

    @classmethod
    def of(cls, strategy: str, form: Sequence[Transform]) -> Self:
        """Return the round; the clients are those of the contract tests, and one attacks.

        Args:
            strategy: The name of the strategy.
            form: The transforms of updates.
        """
        options = {"name": strategy, **_OPTIONS.get(strategy, {})}
        document = {"data": "synthetic", "strategy": options, "rounds": {"selection": "loss"}}
        made = Experiment.model_validate({**document, "transforms": ["sign_flip"]})
        experiment = made.model_copy(update={"transforms": (*made.transforms, *form)})
        trial = Trial.of(strategy_of(experiment), "float32")
        clients, split, params = trial.shard.client_ids, small_split(), trial.params
        hosted = dict(enumerate(np.array_split(clients, 2), 1))
        states = PrivateState(((1, 1),), 5)
        roster = {n: RollCall(ids, "code", 2, n - 1, states) for n, ids in hosted.items()}
        model = ServerModel(experiment, params, roster, split, trial.context(0))
        update, _ = trial.train(1)
        model.apply(Replies(), {0: model.strategy.reduce(update)}, trial.context(1))
        groups, context = model.groups(clients), trial.context(2)
        update, requests, content = replace(update, round=2), {}, {}
        expected = model.sent([*update.tables])
        for n, ids in hosted.items():
            asked = RoundRequest("run", "start", 2, clients=ids, groups=groups[ids])
            trained = _trained(experiment, update, asked, model.attackers, context)
            requests[n], content[n] = asked, records.encode(trained, [*expected.shapes])
        before = State.joined(model.states())
        return cls(experiment, model, before, expected, roster, context, requests, content)

    def read(self, arrived: Mapping[int, RecordDict]) -> list[Reply]:
        """Read replies by node, each beside the one before."""
        usable, other = list[Reply](), None
        for n, content in arrived.items():
            reply, asked = reply_of(content, n), self.requests[n]
            other = read_trained(reply, asked, self.model.attackers, self.expected, other)
            usable.append(Reply(self.roster[n].partition, asked, other))
        return usable

    def apply(self, usable: Sequence[Reply]) -> None:
        """Do with replies what the server does with those that pass its checks."""
        params, model = self.model.params, self.model
        answers, came = [reply.trained for reply in usable], Replies(tuple(usable))
        try:
            aggregates, _ = model.apply(came, None, self.context)
            sums = metric_sums(aggregates.values())
            failures = tuple(failure for each in answers for failure in each.failures)
            record = RoundRecord(round=2, clients=1, failures=failures, loss=sums["loss"])
            record.model_dump_json().encode()
            model.down(self.context.cohort, self.context)
        finally:
            model.restore(params, self.before)
        states = NodeStates(self.roster)
        states.apply(came)
        states.stored()
        cohorts = Cohorts(self.experiment, self.roster, self.context)
        cohorts.learn(answers, self.context)
        cohorts.choose(2, self.context)


def _trained(
    experiment: Experiment,
    update: UpdateBatch,
    asked: RoundRequest,
    attackers: IntArray,
    context: RoundContext,
) -> Trained:
    """Return what a node replies: the last of its honest clients has failed."""
    strategy, clients = strategy_of(experiment), asked.clients
    before, behind = experiment.transforms_around()
    nothing, is_attacker = empty_rows(len(update.client_ids)), np.isin(clients, attackers)
    plain, _ = transformed(before, update, {}, nothing, context)
    formed, _ = transformed(behind, plain, {}, nothing, context)
    sent, honest = formed if strategy.sees_each else formed.decoded(), clients[~is_attacker][:-1]
    of_group = {
        group: honest[asked.groups[np.isin(clients, honest)] == group]
        for group in np.unique(asked.groups[np.isin(clients, honest)]).tolist()
    }
    failures = (FailedClient(client=str(clients[~is_attacker][-1]), reason="no power"),)
    reporting = np.sort(np.concatenate([honest, clients[is_attacker]]))
    return Trained(
        {group: strategy.reduce(sent.take(some)) for group, some in of_group.items()},
        failures,
        uploaded=99,
        seconds=1.5,
        state_change=7,
        notes=("a note",),
        attackers=plain.take(clients[is_attacker]) if is_attacker.any() else None,
        clients=reporting,
        losses=np.ones(len(reporting)),
        request=asked.id,
    )


class TrainedTarget(Target):
    """The reply of the one node that was asked, or of the second of two."""

    name = "trained"
    decoders: ClassVar[Mapping[ModuleType, Sequence[str]]] = {
        decoding: (),
        records: ("decode",),
        replies: ("read_trained", "_check_trained", "check_sums", "_check_updates"),
    }
    documented: ClassVar[tuple[type[FedRecError], ...]] = (ProtocolError, NumericError)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._rounds = dict(zip(STRATEGIES, map(_Round.of, STRATEGIES, cycle(FORMS)), strict=False))

    def valid(self) -> Sequence[Files]:
        """Return the reply of each node to each strategy, with the other's or without."""
        return [
            {**files_of(each.content[n]), _STRATEGY: f"{name} {n} {nodes}".encode()}
            for name, each in self._rounds.items()
            for n, nodes in ((1, 1), (2, 2))
        ]

    def run(self, files: Files) -> None:
        """Read replies, and apply what passes the checks."""
        text = files.get(_STRATEGY, b"").decode(errors="replace")
        name, n, nodes = [*text.split(" "), "", "", ""][:3]
        each, node = self._rounds.get(name, self._rounds["fedavg"]), 1 + (n == "2")
        arrived = {3 - node: each.content[3 - node]} if nodes == "2" else {}
        usable = each.read({**arrived, node: message_of(files)})
        for reply in usable:
            trained = reply.trained
            records.encode(trained, each.expected.shapes)
            counted = sum(aggregate.clients for aggregate in trained.aggregates.values())
            attackers = 0 if trained.attackers is None else len(trained.attackers.client_ids)
            assert counted + attackers + len(trained.failures) == len(reply.request.clients)
        with np.errstate(all="ignore"):
            each.apply(usable)
