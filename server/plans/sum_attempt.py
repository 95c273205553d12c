"""One attempt at a secure sum: four exchanges, and the sum of each group of the strategy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from fedrec.aggregation.fixed_point import SCALE
from fedrec.aggregation.update import Aggregate, Down
from fedrec.errors import EngineError
from fedrec.flower.records import RoundRequest
from fedrec.flower.sum_records import (
    KEYS,
    MASKED,
    REVEAL,
    SHARES,
    KeyReply,
    KeyRequest,
    MaskReply,
    MaskRequest,
    RevealReply,
    RevealRequest,
    ShareReply,
    ShareRequest,
    by_group,
    session_of,
)
from fedrec.secure_sum.keys import KEY, SEALED, SEED
from fedrec.secure_sum.messages import BOTH, WORD, check_session, require
from fedrec.secure_sum.server import (
    CollectedKeys,
    CollectedShares,
    CollectedSums,
    collect_keys,
    collect_shares,
    collect_sums,
    unmasked,
)
from fedrec.secure_sum.vector import VectorLayout
from fedrec.types import FailedClient, IntArray
from server.plans.base import Answer, Answers, LostNode, PlanServer, Question, Replies, Reply
from server.replies import Expected, check_sums, checked_outcome

if TYPE_CHECKING:
    from server.plans.secure_sum import SecureSum

T = TypeVar("T")
Asking: TypeAlias = Generator[Question, Any, T]

_ID = 4
"""Bytes of a client id in what the run log counts."""


class SumAttempt:
    """An attempt at the sums of a round, with keys of its own.

    Args:
        plan: Its settings.
        server: Makes what clients are sent to train with.
        cohort: int64 [c], the clients of the round, sorted.
        groups: int64 [c], the group of each.
        needed: How many of them must answer.
        number: Which attempt of the round it is, from 1.

    Attributes:
        lost: The nodes that did not answer an exchange.
        failures: The clients that failed to train.
        bytes: What clients sent and received, each in messages of its own, before framing: keys,
            shares and vectors, with 4 bytes for the id of another client.
    """

    def __init__(
        self,
        plan: SecureSum,
        server: PlanServer,
        cohort: IntArray,
        groups: IntArray,
        needed: int,
        number: int,
    ) -> None:
        self._plan, self._server = plan, server
        self._cohort, self._needed, self._number = cohort, needed, number
        self._groups = {g: cohort[groups == g] for g in np.unique(groups).tolist()}
        self._layout: VectorLayout | None = None
        self.lost: list[LostNode] = []
        self.failures: list[FailedClient] = []
        self.bytes: Counter[str] = Counter()

    def run(self) -> Asking[tuple[Replies, dict[int, Aggregate]]]:
        """Yield the four exchanges; return what nodes replied beside sums, and the sums by group.

        Raises:
            EngineError: If fewer clients answer than are needed.
            TooFewClients: If of a client and its neighbours too few are left.
            ProtocolError: If the masks cannot be removed, or what comes out is no sum of updates.
        """
        keys = yield from self._keys()
        shares = yield from self._shares(keys)
        sums, replies = yield from self._masked(shares)
        return replies, (yield from self._revealed(sums))

    def _keys(self) -> Asking[dict[int, CollectedKeys]]:
        def check(reply: KeyReply, request: RoundRequest) -> None:
            for group, clients in _groups_of(request, reply.groups).items():
                public = reply.groups[group]
                check_session(public, session_of(request, group, self._number))
                require(np.array_equal(public.keys.clients, clients), "keys of other clients")

        def payload(request: RoundRequest) -> KeyRequest:
            return KeyRequest(request, self._number)

        came = yield from self._ask(KEYS, self._cohort, payload, KeyReply, check)
        self._check_quorum(sum(len(each.request.clients) for each in came))
        degree = None if self._plan.degree == "auto" else self._plan.degree
        collected = {
            group: collect_keys(
                session_of(came[0].request, group, self._number),
                cohort,
                _of_group(came, group),
                self._plan.threshold,
                degree,
            )
            for group, cohort in self._groups.items()
        }
        self.bytes["up"] += 3 * KEY * sum(len(each.graph.clients) for each in collected.values())
        return collected

    def _shares(self, keys: Mapping[int, CollectedKeys]) -> Asking[dict[int, CollectedShares]]:
        def check(reply: ShareReply, request: RoundRequest) -> None:
            for group, clients in _groups_of(request, reply.groups).items():
                keys[group].check(reply.groups[group], clients)

        def payload(request: RoundRequest) -> ShareRequest:
            clients = by_group(request).items()
            return ShareRequest(request, {g: keys[g].request(some) for g, some in clients})

        asked = _sorted(each.graph.clients for each in keys.values())
        others = sum(each.graph.closed[:, 1:].size for each in keys.values())
        self.bytes["down"] += (_ID + 2 * KEY) * others
        came = yield from self._ask(SHARES, asked, payload, ShareReply, check)
        self._check_quorum(sum(len(each.request.clients) for each in came))
        collected = {g: collect_shares(each, _of_group(came, g)) for g, each in keys.items()}
        sealed = sum(len(each.senders) for g in keys for each in _of_group(came, g))
        self.bytes["up"] += (_ID + BOTH + SEALED) * sealed
        return collected

    def _masked(
        self, shares: Mapping[int, CollectedShares]
    ) -> Asking[tuple[dict[int, CollectedSums], Replies]]:
        expected = self._server.expected()

        def check(reply: MaskReply, request: RoundRequest) -> None:
            self._check_masked(reply, request, expected)

        def payload(request: RoundRequest) -> MaskRequest:
            clients = by_group(request)
            sealed = {g: shares[g].request(some) for g, some in clients.items()}
            return MaskRequest(request, sealed, {g: len(self._groups[g]) for g in clients})

        asked = _sorted(each.clients for each in shares.values())
        down = self._server.down(self._cohort).take(np.searchsorted(self._cohort, asked))
        self.bytes["down"] += (_ID + BOTH + SEALED) * sum(len(e.sealed) for e in shares.values())
        came = yield from self._ask(MASKED, asked, payload, MaskReply, check, down)
        usable = tuple(Reply(each.number, each.request, each.value.trained) for each in came)
        self.failures += [failure for each in usable for failure in each.trained.failures]
        self._check_quorum(sum(len(each.request.clients) for each in came))
        collected = {g: collect_sums(each, _of_group(came, g)) for g, each in shares.items()}
        for sums in collected.values():
            self.bytes["up"] += (WORD * len(sums.total) + KEY) * len(sums.clients)
        return collected, Replies(usable)

    def _check_masked(self, reply: MaskReply, request: RoundRequest, expected: Expected) -> None:
        """Check a reply with masked vectors.

        Raises:
            ProtocolError: Says what does not fit.
        """
        trained, layout = reply.trained, reply.layout
        succeeded = request.clients[checked_outcome(trained, request, expected)]
        plain = trained.aggregates or trained.attackers is not None or trained.uploaded
        require(not plain, "updates that are not masked")
        groups = {g: np.intersect1d(some, succeeded) for g, some in by_group(request).items()}
        groups = {g: some for g, some in groups.items() if len(some)}
        require(reply.groups.keys() == groups.keys(), "vectors of other groups")
        require((layout is not None) == bool(groups), "vectors without a layout")
        if layout is None:
            return
        _check_layout(layout, expected)
        require(layout == (self._layout or layout), "another layout than those of other nodes")
        for group, clients in groups.items():
            sums = reply.groups[group]
            check_session(sums, session_of(request, group, self._number))
            require(np.array_equal(sums.clients, clients), "vectors of other clients")
            require(sums.words.size == WORD * (layout.size + 1), "vectors of another length")
        self._layout = layout

    def _revealed(self, sums: Mapping[int, CollectedSums]) -> Asking[dict[int, Aggregate]]:
        def check(reply: RevealReply, request: RoundRequest) -> None:
            for group, clients in _groups_of(request, reply.groups).items():
                sums[group].check(reply.groups[group], clients)

        def payload(request: RoundRequest) -> RevealRequest:
            clients = by_group(request).items()
            return RevealRequest(request, {g: sums[g].request(some) for g, some in clients})

        asked, before = _sorted(each.clients for each in sums.values()), len(self.lost)
        self.bytes["down"] += _ID * sum(each.n_revealed for each in sums.values())
        came = yield from self._ask(REVEAL, asked, payload, RevealReply, check)
        self.lost[before:] = [
            replace(node, error=EngineError(f"{node.error} (its clients are in the sum)"))
            for node in self.lost[before:]
        ]
        revealed = sum(len(each.holders) for g in sums for each in _of_group(came, g))
        self.bytes["up"] += (_ID + SEED) * revealed
        assert self._layout is not None
        aggregates, expected = dict[int, Aggregate](), self._server.expected()
        for group, collected in sums.items():
            words = unmasked(collected, _of_group(came, group))
            aggregate = self._layout.unpack(words)
            fits = aggregate.clients == len(collected.clients)
            require(fits, f"a sum of {aggregate.clients} clients of {len(collected.clients)}")
            check_sums(aggregate, expected)
            aggregates[group] = aggregate
        return aggregates

    def _ask(
        self,
        action: str,
        clients: IntArray,
        payload: Callable[[RoundRequest], Any],
        reply: type[Any],
        check: Callable[[Any, RoundRequest], None],
        down: Down | None = None,
    ) -> Asking[tuple[Answer, ...]]:
        """Yield a question; return the replies that are of use."""
        deadline = self._plan.deadline
        answers: Answers = yield Question(action, clients, payload, reply, check, down, deadline)
        self.lost += answers.lost
        return answers.usable

    def _check_quorum(self, answered: int) -> None:
        """Check that enough clients are left.

        Raises:
            EngineError: If they are not.
        """
        if answered < self._needed:
            raise EngineError(
                f"{answered} of {len(self._cohort)} clients answered, and rounds.plan.quorum needs "
                f"{self._needed}"
            )


def _of_group(came: Iterable[Answer], group: int) -> list[Any]:
    """Return what some nodes replied for a group."""
    return [each.value.groups[group] for each in came if group in each.value.groups]


def _groups_of(request: RoundRequest, came: Mapping[int, object]) -> dict[int, IntArray]:
    """Return the clients of a request by group, of which the reply must have all and no other.

    Raises:
        ProtocolError: If it has not.
    """
    groups = by_group(request)
    require(groups.keys() == came.keys(), "other groups than those of its clients")
    return groups


def _sorted(clients: Iterable[IntArray]) -> IntArray:
    return np.sort(np.concatenate([*clients]))


def _check_layout(layout: VectorLayout, expected: Expected) -> None:
    """Check that a vector holds what clients send.

    Raises:
        ProtocolError: If it does not.
    """
    shapes = {**layout.tables, **layout.dense}
    fits = layout.tables.keys() == {*expected.tables} and shapes == dict(expected.shapes)
    require(fits, "a vector of other parameters than clients send")
    require(layout.scale.keys() == shapes.keys(), "a vector without scales")
    require({*layout.scale.values()} <= {SCALE}, "a vector in another scale")
    require({*layout.metrics} >= {*expected.metrics}, "a vector without metrics")
    require(sorted(layout.extras) == sorted(expected.extras), "a vector of other numbers")
