"""Secure sums: what the server and nodes send each other in the four exchanges of a round."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any, ClassVar, NamedTuple
from unittest.mock import patch

import numpy as np
from flwr.app import RecordDict

from clients import secure_sum as members
from clients.node import Node
from clients.secure_sum import SumMember
from fedrec.aggregation.update import Aggregate, Down
from fedrec.errors import EngineError, FedRecError, NumericError, ProtocolError, TooFewClients
from fedrec.flower import records
from fedrec.flower.records import RoundRequest, Trained
from fedrec.flower.sum_records import (
    KEYS,
    MASKED,
    REVEAL,
    SHARES,
    KeyRequest,
    MaskRequest,
    RevealRequest,
    ShareRequest,
    by_group,
)
from fedrec.secure_sum import client, messages, vector
from fedrec.secure_sum import server as summing
from fedrec.testing.trial import as_bytes
from fedrec.types import FailedClient, IntArray
from server.plans import sum_attempt
from server.plans.base import Answer, Answers, LostNode, Question
from server.plans.secure_sum import SecureSum
from server.plans.sum_attempt import SumAttempt
from server.replies import Expected, read_answer
from tests.fuzz.files import Files
from tests.fuzz.targets.base import Target
from tests.fuzz.targets.messages import files_of, message_of
from tests.fuzz.targets.replies import reply_of
from tests.secure_sums import SHAPES, plain_sum, sums_of, updates

_REQUESTS: Mapping[str, type[Any]] = {
    KEYS: KeyRequest,
    SHARES: ShareRequest,
    MASKED: MaskRequest,
    REVEAL: RevealRequest,
}
_HOSTED: Mapping[int, IntArray] = {1: np.arange(4), 2: np.array([4, 5])}
_COHORT, _FAILED = np.arange(6), 5
_SURVIVORS = ((0, 1, 2, 3), (0, 1, 2, 3, 4))
"""Who may be in a sum: all but the client that fails, or the first node alone."""
_EXCHANGE = "exchange"


class _Shard(NamedTuple):
    client_ids: IntArray
    n_items: int


class _Trainer:
    """A node whose updates are known; one of its clients fails. The server sends it nothing."""

    def __init__(self, hosted: IntArray, sums: Sequence[Aggregate]) -> None:
        self._sums, self.shard = sums, _Shard(hosted, SHAPES["item"][0])

    def train(self, request: RoundRequest, _down: Down) -> Trained:
        """Return the sums of the clients of a request, by group."""
        groups = {g: some[some != _FAILED].tolist() for g, some in by_group(request).items()}
        aggregates = {g: plain_sum(self._sums, some) for g, some in groups.items() if some}
        failed = (FailedClient(client=str(_FAILED), reason="no power"),)
        return Trained(aggregates, failed * int((request.clients == _FAILED).sum()), 9)


class _Server(NamedTuple):
    """What a secure sum asks the server for."""

    sent: Expected

    def expected(self) -> Expected:
        return self.sent

    def down(self, _clients: IntArray) -> Down:
        return Down({})


@dataclass(frozen=True)
class _Step:
    """What a node did in an exchange: what it was sent, had kept, replied, and kept then."""

    request: RecordDict
    before: RecordDict
    reply: RecordDict
    after: RecordDict


@contextmanager
def _same_randomness() -> Iterator[None]:
    """Let keys, nonces and shares be the same whenever valid messages are made."""
    drawn = Random(0).randbytes
    with patch("os.urandom", drawn), patch("Crypto.Protocol.SecretSharing.rng", drawn):
        yield


class _Round:
    """A round with a secure sum of two nodes.

    Attributes:
        steps: By exchange and node, what it did.
        sums: Of each client.
    """

    def __init__(self) -> None:
        batch = updates(len(_COHORT))
        self.sums = sums_of(batch)
        tables = ["item", "bias", "item/control"]
        self._expected = Expected(SHAPES, tables, [*batch.metrics], extras=[*batch.extras])
        self.nodes: Any = {n: _Trainer(hosted, self.sums) for n, hosted in _HOSTED.items()}
        self.steps: dict[tuple[str, int], _Step] = {}
        with _same_randomness():
            self.run(None, RecordDict())

    def run(self, damaged: tuple[str, int] | None, content: RecordDict) -> Aggregate:
        """Return the sum of the round.

        Args:
            damaged: In which exchange which node replies something else; up to there, all reply as
                they did at first.
            content: What it replies.

        Raises:
            FedRecError: If there is no sum.
        """
        plan, server = SecureSum(quorum=0.5), _Server(self._expected)
        attempt: Any = SumAttempt
        asking = attempt(plan, server, _COHORT, np.zeros(len(_COHORT), np.int64), 3, 1).run()
        question, goes_as_before = next(asking), damaged is not None
        states = dict.fromkeys(_HOSTED, RecordDict())
        while True:
            answers, lost = list[Answer](), list[LostNode]()
            for node, asked in self._requests(question):
                key = question.action, node
                if goes_as_before:
                    states[node] = self.steps[key].after
                    reply = content if key == damaged else self.steps[key].reply
                else:
                    step = self._step(question, asked, node, states[node])
                    states[node], reply = step.after, step.reply
                    if damaged is None:
                        self.steps[key] = step
                try:
                    value = read_answer(
                        reply_of(reply, node), asked, question.reply, question.check
                    )
                    answers.append(Answer(node, asked, value))
                except FedRecError as error:
                    lost.append(LostNode(node, asked.clients, error))
            goes_as_before = goes_as_before and (damaged or ("", 0))[0] != question.action
            try:
                question = asking.send(Answers(tuple(answers), tuple(lost)))
            except StopIteration as done:
                aggregate: Aggregate = done.value[1][0]
                return aggregate

    def _requests(self, question: Question) -> Iterator[tuple[int, RoundRequest]]:
        for node, hosted in _HOSTED.items():
            some = np.intersect1d(hosted, question.clients)
            if len(some):
                yield node, RoundRequest("a", "b", 3, clients=some, groups=np.zeros_like(some))

    def _step(self, question: Question, asked: RoundRequest, node: int, state: RecordDict) -> _Step:
        request = records.encode(question.payload(asked))
        after = message_of(files_of(state))
        reply = answered(question.action, request, after, self.nodes[node])
        return _Step(request, state, records.encode(reply), after)


def answered(exchange: str, request: RecordDict, state: RecordDict, node: Any) -> Any:
    """Return what a node replies to a request, as `clients.app` does; its state changes.

    Raises:
        FedRecError: If it takes no part.
    """
    asked, member = records.decode(request, _REQUESTS[exchange]), SumMember(state)
    Node.check(node, asked.request)
    if exchange == KEYS:
        return member.keys(asked)
    if exchange == SHARES:
        return member.shares(asked)
    return member.masked(asked, Down({}), node) if exchange == MASKED else member.reveal(asked)


class _SumTarget(Target):
    """One message of a secure sum."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._round = _Round()

    def _step_of(self, files: Files) -> tuple[tuple[str, int], _Step]:
        """Return the exchange and the node of a message, and what the node did at first."""
        exchange, _, node = files.get(_EXCHANGE, b"").decode(errors="replace").partition(" ")
        key = exchange, int(node) if node in ("1", "2") else 1
        key = key if key in self._round.steps else (KEYS, 1)
        return key, self._round.steps[key]


class SumReplyTarget(_SumTarget):
    """What a node replies in one of the exchanges, after which the round goes on."""

    name = "sum-reply"
    decoders: ClassVar[Mapping[ModuleType, Sequence[str]]] = {
        messages: (),
        sum_attempt: (),
        summing: (),
        vector: ("unpack", "_parts"),
    }
    documented: ClassVar[tuple[type[FedRecError], ...]] = (
        ProtocolError,
        EngineError,
        TooFewClients,
    )

    def valid(self) -> Sequence[Files]:
        """Return the replies of all nodes in all exchanges."""
        return [
            {**files_of(step.reply), _EXCHANGE: f"{exchange} {node}".encode()}
            for (exchange, node), step in self._round.steps.items()
        ]

    def run(self, files: Files) -> None:
        """Go on with a reply; a sum that comes out is that of the clients that are in it."""
        key, _ = self._step_of(files)
        aggregate = self._round.run(key, message_of(files))
        sums = [as_bytes(plain_sum(self._round.sums, some)) for some in _SURVIVORS]
        assert as_bytes(aggregate) in sums, "the sum is that of other updates"


class SumRequestTarget(_SumTarget):
    """What a node is sent in one of the exchanges."""

    name = "sum-request"
    decoders: ClassVar[Mapping[ModuleType, Sequence[str]]] = {
        client: ("share", "receive", "reveal"),
        members: (),
        messages: (),
    }
    documented: ClassVar[tuple[type[FedRecError], ...]] = (
        ProtocolError,
        NumericError,
        TooFewClients,
    )

    def valid(self) -> Sequence[Files]:
        """Return the requests to all nodes in all exchanges."""
        return [
            {**files_of(step.request), _EXCHANGE: f"{exchange} {node}".encode()}
            for (exchange, node), step in self._round.steps.items()
        ]

    def run(self, files: Files) -> None:
        """Answer a request; the reply can be sent."""
        (exchange, node), step = self._step_of(files)
        state = message_of(files_of(step.before))
        reply = answered(exchange, message_of(files), state, self._round.nodes[node])
        records.encode(reply)
