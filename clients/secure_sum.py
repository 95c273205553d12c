"""A node's part in a secure sum: what its clients do in each of the four exchanges.

What clients keep from one exchange to the next is in the state of Flower's context of the node: it
never lies in a file of fedrec's and never travels. It is there before the reply is sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from flwr.app import RecordDict

from clients.node import Node
from fedrec.aggregation.update import Aggregate, Down
from fedrec.errors import ProtocolError
from fedrec.flower import records
from fedrec.flower.records import RoundRequest
from fedrec.flower.sum_records import (
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
from fedrec.secure_sum import client
from fedrec.secure_sum.client import Masking, Secrets, Shared
from fedrec.secure_sum.messages import SealedShares, check_session, require
from fedrec.secure_sum.vector import VectorLayout

_PREFIX = "secure-sum."
T = TypeVar("T", Secrets, Shared, Masking)


@dataclass(frozen=True, slots=True)
class _Memory:
    """What the clients of a node keep, by group, from one exchange to the next.

    Args:
        attempt: Of which attempt it is.
        secrets: After the first exchange.
        shared: After the second.
        masking: After the third and the fourth.
    """

    attempt: int
    secrets: Mapping[int, Secrets] = field(default_factory=dict)
    shared: Mapping[int, Shared] = field(default_factory=dict)
    masking: Mapping[int, Masking] = field(default_factory=dict)


class SumMember:
    """The clients of a node as members of secure sums.

    Args:
        state: Of the node's context in Flower; it holds what the clients keep.
    """

    def __init__(self, state: RecordDict) -> None:
        self._state = state

    def keys(self, asked: KeyRequest) -> KeyReply:
        """Make fresh keys for the clients, and forget those of earlier sums."""
        secrets, public = {}, {}
        for group, clients in by_group(asked.request).items():
            session = session_of(asked.request, group, asked.attempt)
            secrets[group], public[group] = client.advertise(session, clients)
        self._keep(_Memory(asked.attempt, secrets=secrets))
        return KeyReply(asked.request.id, public)

    def shares(self, asked: ShareRequest) -> ShareReply:
        """Share the secrets of the clients with their neighbours.

        Raises:
            ProtocolError: If the node has no secrets of this sum, or the request does not fit.
        """
        memory = self._memory()
        shared, sealed = {}, {}
        for group, secrets in _of(asked.request, asked.groups, memory.secrets, memory.attempt):
            shared[group], sealed[group] = client.share(secrets, asked.groups[group])
        self._keep(_Memory(memory.attempt, shared=shared))
        return ShareReply(asked.request.id, sealed)

    def masked(self, asked: MaskRequest, down: Down, node: Node) -> MaskReply:
        """Train the clients, and mask the sum of the updates of those that succeed.

        Args:
            asked: Which clients, and the shares for them.
            down: What the clients receive, in the order of the request.
            node: Trains them.

        Raises:
            ProtocolError: If the node has no secrets of this sum, or the request does not fit.
            TooFewClients: If a client has too few neighbours left.
            NumericError: If the sum of the cohort may overflow, or a client's update is not
                finite and no client may fail.
            ClientFailure: If a client fails and none may.
        """
        memory, request = self._memory(), asked.request
        masking = {
            group: client.receive(shared, asked.groups[group])
            for group, shared in _of(request, asked.groups, memory.shared, memory.attempt)
        }
        trained = node.train(request, down)
        failed = np.array([int(each.client) for each in trained.failures], np.int64)
        sums, layout = {}, None
        for group, clients in by_group(request).items():
            if group in trained.aggregates:
                aggregate = trained.aggregates[group]
                layout = VectorLayout.of(aggregate, _shapes(aggregate, node.shard.n_items))
                vector = layout.pack(aggregate, asked.cohorts.get(group, 0))
                succeeded = np.setdiff1d(clients, failed)
                masking[group], sums[group] = client.mask(masking[group], succeeded, vector)
        self._keep(_Memory(memory.attempt, masking=masking))
        # The bytes of plain updates would say how many rows were touched.
        about = replace(trained, aggregates={}, uploaded=0)
        return MaskReply(request.id, about, sums, layout)

    def reveal(self, asked: RevealRequest) -> RevealReply:
        """Give back shares of the neighbours' secrets, of one secret each.

        Raises:
            ProtocolError: If the node has no secrets of this sum, or the request does not fit.
            TooFewClients: If too few neighbours of a client have survived.
        """
        memory = self._memory()
        masking, revealed = {**memory.masking}, {}
        for group, before in _of(asked.request, asked.groups, memory.masking, memory.attempt):
            masking[group], revealed[group] = client.reveal(before, asked.groups[group])
        self._keep(_Memory(memory.attempt, masking=masking))
        return RevealReply(asked.request.id, revealed)

    def _keep(self, memory: _Memory) -> None:
        for name, record in records.encode(memory).items():
            self._state[_PREFIX + name] = record

    def _memory(self) -> _Memory:
        """Return what was kept after the last exchange.

        Raises:
            ProtocolError: If there is nothing.
        """
        content = {
            name.removeprefix(_PREFIX): record
            for name, record in self._state.items()
            if name.startswith(_PREFIX)
        }
        if not content:
            raise ProtocolError(
                "secure sum: this node has no secrets of the round: its process was started anew "
                "or has come late; its clients are left out, or the round is tried again"
            )
        return records.decode(RecordDict(content), _Memory)


def _of(
    request: RoundRequest, asked: Mapping[int, Any], kept: Mapping[int, T], attempt: int
) -> list[tuple[int, T]]:
    """Return what clients have kept for each group of a request, after checks.

    Raises:
        ProtocolError: If it is of another sum, or the request is about other clients.
    """
    groups = by_group(request)
    require(asked.keys() == groups.keys(), "other groups than those of its clients")
    require(groups.keys() <= kept.keys(), "clients without secrets of this exchange")
    for group, clients in groups.items():
        value = asked[group]
        check_session(value, session_of(request, group, attempt))
        is_sealed = isinstance(value, SealedShares)
        meant = np.unique(value.receivers) if is_sealed else value.clients
        require(np.array_equal(meant, clients), "other clients than it asks for")
    return [(group, kept[group]) for group in groups]


def _shapes(aggregate: Aggregate, n_items: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters of which some clients have sent sums."""
    return {
        name: (n_items, *sums.shape[1:]) if name in aggregate.ids else sums.shape
        for name, sums in aggregate.sums.items()
    }
