"""Send requests to nodes, wait for their replies, and check these."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from fedrec.aggregation.update import Down
from fedrec.errors import EngineError, FedRecError
from fedrec.evaluation.evaluate import Evaluation
from fedrec.flower import records
from fedrec.flower.grid import EngineGrid
from fedrec.flower.records import RoundRequest
from fedrec.types import IntArray
from server.node_states import NodeStates
from server.plans.base import Answer, Answers, Exchange, LostNode, Question, Replies, Reply
from server.replies import (
    Expected,
    ExpectedEvaluation,
    read_answer,
    read_evaluation,
    read_trained,
)
from server.roster import Roster, deal

_POLLS = 0.05, 1.0
"""Seconds between two looks for replies: at first, and at most."""
_SECONDS_UNTIL_SAID = 60.0
LOG = logging.getLogger("fedrec")


class Exchanges:
    """Sends requests to the nodes of a grid and reads their replies.

    A node that is silent, fails or replies what does not fit is *lost*; whether a round goes on
    without it is not decided here.

    Args:
        grid: The nodes.
        roster: Who hosts whom.
        states: The private state of the nodes.
        allowed: Names of parameters that may travel.
        sent: What clients send.
        measured: What users measure.
        attackers: int64, the clients whose updates are not in the sums.

    Attributes:
        bytes: What the messages carried since it was cleared: ``down`` and ``up``.
    """

    def __init__(
        self,
        grid: Grid,
        roster: Roster,
        states: NodeStates,
        allowed: Collection[str],
        sent: Expected,
        measured: ExpectedEvaluation,
        attackers: IntArray,
    ) -> None:
        self._grid, self._roster, self._states = grid, roster, states
        self._allowed, self._attackers = allowed, attackers
        self._sent, self._measured = sent, measured
        self.bytes: Counter[str] = Counter()

    def train(self, exchange: Exchange, request: RoundRequest, groups: IntArray) -> Replies:
        """Let clients train.

        Args:
            exchange: Which clients, what they receive, and how long to wait.
            request: Of the round.
            groups: int64 [c], the group of each client.
        """
        requests = dict(self._requests(request, exchange.clients, groups))
        sent = list(self._messages(records.TRAIN, requests, exchange.clients, exchange.down))
        usable, lost = list[Reply](), list[LostNode]()
        waits = exchange.deadline, exchange.enough
        for node, reply in self._gathered(sent, requests, *waits).items():
            number, asked = self._roster[node].partition, requests[node]
            try:
                answer = _answer(node, reply, asked)
                other = next((each.trained for each in usable if each.trained.aggregates), None)
                trained = read_trained(answer, asked, self._attackers, self._sent, other)
                usable.append(Reply(number, asked, trained))
            except FedRecError as error:
                lost.append(LostNode(number, asked.clients, error))
        return Replies(tuple(usable), tuple(lost))

    def ask(self, question: Question, request: RoundRequest, groups: IntArray) -> Answers:
        """Ask the nodes of some clients what a plan wants to know.

        Args:
            question: What, and how long to wait.
            request: Of the round.
            groups: int64 [c], the group of each client.
        """
        clients, kind = question.clients, f"{records.TRAIN}.{question.action}"
        requests = dict(self._requests(request, clients, groups))
        sent = self._messages(kind, requests, clients, question.down, question.payload)
        usable, lost = list[Answer](), list[LostNode]()
        for node, reply in self._gathered(list(sent), requests, question.deadline).items():
            number, asked = self._roster[node].partition, requests[node]
            try:
                answer = _answer(node, reply, asked)
                value = read_answer(answer, asked, question.reply, question.check)
                usable.append(Answer(number, asked, value))
            except FedRecError as error:
                lost.append(LostNode(number, asked.clients, error))
        return Answers(tuple(usable), tuple(lost))

    def evaluate(
        self,
        request: RoundRequest,
        clients: IntArray,
        down: Down,
        groups: IntArray,
        deadline: float | None = None,
    ) -> tuple[list[Evaluation], list[LostNode]]:
        """Let the users of clients rank; return what they measured, and the nodes that are lost.

        Args:
            request: Of the round.
            clients: int64 [c], sorted.
            down: What the clients receive, in their order.
            groups: int64 [c], the group of each client.
            deadline: Seconds to wait, see `Exchange`.
        """
        requests = dict(self._requests(request, clients, groups))
        sent = list(self._messages(records.EVALUATE, requests, clients, down))
        usable, lost = list[Evaluation](), list[LostNode]()
        for node, reply in self._gathered(sent, requests, deadline).items():
            asked = requests[node]
            try:
                answer = _answer(node, reply, asked)
                other = next((each for each in usable if each.users.size), None)
                usable.append(read_evaluation(answer, asked, self._measured, other))
            except FedRecError as error:
                lost.append(LostNode(self._roster[node].partition, asked.clients, error))
        return usable, lost

    def _requests(
        self, request: RoundRequest, clients: IntArray, groups: IntArray
    ) -> Iterator[tuple[int, RoundRequest]]:
        """Yield node and request for each node that hosts some of the clients."""
        for node, hosted in deal(self._roster, clients):
            number = self._roster[node].partition
            yield (
                node,
                replace(
                    request,
                    clients=hosted,
                    groups=groups[np.searchsorted(clients, hosted)],
                    applied=self._states.applied(number),
                    pending=self._states.pending(number, request.round),
                    attempt=self._states.next_attempt(number, request.round),
                ),
            )

    def _messages(
        self,
        kind: str,
        requests: Mapping[int, RoundRequest],
        clients: IntArray,
        down: Down | None,
        payload: Callable[[RoundRequest], Any] = lambda request: request,
    ) -> Iterator[Message]:
        broadcast = None if down is None else records.Broadcast(down, self._allowed)
        for node, request in requests.items():
            content = records.encode(payload(request))
            if broadcast is not None:
                places = np.searchsorted(clients, request.clients)
                content[records.PARAMS] = broadcast.record(places)
            yield Message(content, node, kind, group_id=str(request.round))

    def _gathered(
        self,
        messages: Sequence[Message],
        requests: Mapping[int, RoundRequest],
        deadline: float | None = None,
        enough: int | None = None,
    ) -> dict[int, Message | None]:
        """Send messages; return the reply of each node, None where there is none, by node id."""
        if isinstance(self._grid, EngineGrid):
            replies = list(self._grid.send_and_receive(messages))
        else:
            replies = _polled(self._grid, messages, requests, deadline, enough)
        for way, carried in (("down", messages), ("up", replies)):
            self.bytes[way] += sum(records.byte_count(message) for message in carried)
        by_node = {reply.metadata.src_node_id: reply for reply in replies}
        return {node: by_node.get(node) for node in sorted(requests)}


def _answer(node: int, reply: Message | None, request: RoundRequest) -> Message:
    """Return the reply of a node.

    Raises:
        EngineError: If there is none, or it is an error.
    """
    if reply is None:
        raise EngineError(f"round {request.round}: node {node} is silent")
    if reply.has_error():
        raise EngineError(f"round {request.round}: node {node} failed: {reply.error.reason}")
    return reply


def _polled(
    grid: Grid,
    messages: Sequence[Message],
    requests: Mapping[int, RoundRequest],
    deadline: float | None,
    enough: int | None,
) -> list[Message]:
    """Send messages over Flower; look for replies until all or enough are there, or it is late."""
    began, said = time.monotonic(), False
    waiting, (pause, longest) = {*grid.push_messages(messages)}, _POLLS
    replies = list[Message]()
    while waiting:
        for reply in grid.pull_messages(waiting):
            waiting.discard(reply.metadata.reply_to_message_id)
            replies.append(reply)
        answered = sum(len(requests[reply.metadata.src_node_id].clients) for reply in replies)
        seconds = time.monotonic() - began
        if seconds > (np.inf if deadline is None else deadline) or answered >= (enough or np.inf):
            break
        if seconds > _SECONDS_UNTIL_SAID and deadline is None and not said:
            LOG.warning(
                f"{len(waiting)} of {len(messages)} nodes have not answered for {seconds:.0f} s; "
                "to go on without such nodes, set rounds.plan.deadline and rounds.plan.quorum"
            )
            said = True
        time.sleep(pause)
        pause = min(2 * pause, longest)
    return replies
