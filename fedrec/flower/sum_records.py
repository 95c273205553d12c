"""What server and nodes send each other in the four exchanges of a secure sum.

A node has clients of one group of the strategy or several, and each group has a sum of its own; so
every message holds a value of `fedrec.secure_sum.messages` for each group. Requests go through
`fedrec.flower.records.encode`, and name the run as every request does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Message

from fedrec.flower.records import TRAIN, RoundRequest, Trained, decode
from fedrec.secure_sum.messages import (
    MaskedSum,
    NeighbourKeys,
    PublicKeys,
    RevealedShares,
    SealedShares,
    Survivors,
)
from fedrec.secure_sum.session import Session
from fedrec.secure_sum.vector import VectorLayout
from fedrec.types import IntArray

KEYS, SHARES, MASKED, REVEAL = "keys", "shares", "masked", "reveal"
"""Names of the exchanges, in their order: messages have types such as ``train.keys``."""


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """Asks for public keys.

    Args:
        request: names the run, the round and the clients.
        attempt: which attempt of the round it is, from 1; another has other keys.
    """

    request: RoundRequest
    attempt: int


@dataclass(frozen=True, slots=True)
class KeyReply:
    """Holds the public keys of a node's clients.

    Args:
        request: the id of the request.
        groups: by group, the keys.
    """

    request: str
    groups: Mapping[int, PublicKeys]


@dataclass(frozen=True, slots=True)
class ShareRequest:
    """Names the neighbours of each client.

    Args:
        request: names the run, the round and the clients.
        groups: by group, the neighbours and their keys.
    """

    request: RoundRequest
    groups: Mapping[int, NeighbourKeys]


@dataclass(frozen=True, slots=True)
class ShareReply:
    """Holds shares of the secrets of a node's clients.

    Args:
        request: the id of the request.
        groups: by group, the shares.
    """

    request: str
    groups: Mapping[int, SealedShares]


@dataclass(frozen=True, slots=True)
class MaskRequest:
    """Asks clients to train; the shared parameters are in the same message.

    Args:
        request: names the run, the round and the clients.
        groups: by group, the shares that were sent to the clients.
        cohorts: by group, how many clients the sum may have.
    """

    request: RoundRequest
    groups: Mapping[int, SealedShares]
    cohorts: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class MaskReply:
    """Holds the masked sum of the updates of a node's clients.

    Args:
        request: the id of the request.
        trained: what a node replies to a training request, without updates.
        groups: by group, the masked sums.
        layout: of these; None: all clients failed.
    """

    request: str
    trained: Trained
    groups: Mapping[int, MaskedSum]
    layout: VectorLayout | None


@dataclass(frozen=True, slots=True)
class RevealRequest:
    """Says whose masked vectors have come.

    Args:
        request: names the run, the round and the clients.
        groups: by group, who has survived and who has dropped out.
    """

    request: RoundRequest
    groups: Mapping[int, Survivors]


@dataclass(frozen=True, slots=True)
class RevealReply:
    """Holds the shares that a node's clients give back.

    Args:
        request: the id of the request.
        groups: by group, the shares.
    """

    request: str
    groups: Mapping[int, RevealedShares]


_REQUESTS: Mapping[str, Any] = {
    f"{TRAIN}.{KEYS}": KeyRequest,
    f"{TRAIN}.{SHARES}": ShareRequest,
    f"{TRAIN}.{MASKED}": MaskRequest,
    f"{TRAIN}.{REVEAL}": RevealRequest,
}
"""By type of message, what it holds."""


def request_of(message: Message) -> tuple[RoundRequest, bool]:
    """Return the request that a message of a round holds, and whether clients are to train."""
    kind = message.metadata.message_type
    if (holder := _REQUESTS.get(kind)) is None:
        return decode(message.content, RoundRequest), kind == TRAIN
    request: RoundRequest = decode(message.content, holder).request
    return request, holder is MaskRequest


def by_group(request: RoundRequest) -> dict[int, IntArray]:
    """Return the clients of a request by their group: int64 [c], sorted."""
    numbers: list[int] = np.unique(request.groups).tolist()
    return {group: request.clients[request.groups == group] for group in numbers}


def session_of(request: RoundRequest, group: int, attempt: int) -> Session:
    """Return which secure sum a group of a request belongs to."""
    return Session(f"{request.run}/{request.start}", request.round, group, attempt)
