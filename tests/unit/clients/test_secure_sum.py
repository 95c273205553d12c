"""A node as a member of secure sums: what it keeps, and which requests it refuses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

from clients.secure_sum import SumMember
from fedrec.errors import ProtocolError
from fedrec.flower.records import RoundRequest
from fedrec.flower.sum_records import (
    KeyReply,
    KeyRequest,
    RevealRequest,
    ShareRequest,
    by_group,
    session_of,
)
from fedrec.secure_sum.messages import Survivors
from fedrec.secure_sum.server import collect_keys

REQUEST = RoundRequest(
    "a" * 32, "b" * 32, 2, clients=np.array([1, 4, 5, 7, 8, 9]), groups=np.array([0, 1, 0, 1, 0, 1])
)


def share_request(reply: KeyReply, attempt: int = 1) -> ShareRequest:
    """What a server makes of the keys of the node, which has all clients."""
    groups = {
        group: collect_keys(
            session_of(REQUEST, group, attempt), clients, [reply.groups[group]]
        ).request(clients)
        for group, clients in by_group(REQUEST).items()
    }
    return ShareRequest(REQUEST, groups)


def test_each_group_has_a_session_and_keys_of_its_own() -> None:
    reply = SumMember(RecordDict()).keys(KeyRequest(REQUEST, 3))
    assert reply.request == REQUEST.id
    for group, clients in (0, [1, 5, 8]), (1, [4, 7, 9]):
        public = reply.groups[group]
        assert public.session == session_of(REQUEST, group, 3)
        assert public.keys.clients.tolist() == clients


def test_another_object_goes_on_with_the_state_of_the_node() -> None:
    """Flower calls the app anew for each message, perhaps in another process."""
    state = RecordDict()
    keys = SumMember(state).keys(KeyRequest(REQUEST, 1))
    reply = SumMember(state).shares(share_request(keys))
    for group, clients in by_group(REQUEST).items():
        sealed = reply.groups[group]
        pairs = [(a, b) for a in clients for b in clients if a != b]
        assert sorted(zip(sealed.senders, sealed.receivers, strict=True)) == pairs


def test_new_keys_replace_those_of_before() -> None:
    """An attempt that failed leaves nothing: its shares are refused."""
    state = RecordDict()
    member = SumMember(state)
    first = share_request(member.keys(KeyRequest(REQUEST, 1)), 1)
    second = share_request(member.keys(KeyRequest(REQUEST, 2)), 2)
    with pytest.raises(ProtocolError, match="attempt 1, expected"):
        member.shares(first)
    member.shares(second)
    with pytest.raises(ProtocolError, match="clients without secrets of this exchange"):
        member.shares(second)


def test_without_state_there_are_no_secrets() -> None:
    keys = SumMember(RecordDict()).keys(KeyRequest(REQUEST, 1))
    with pytest.raises(ProtocolError, match=r"no secrets of the round.*tried again"):
        SumMember(RecordDict()).shares(share_request(keys))


def test_shares_are_not_given_back_before_there_are_any() -> None:
    state = RecordDict()
    SumMember(state).keys(KeyRequest(REQUEST, 1))
    groups = {
        group: Survivors(session_of(REQUEST, group, 1), clients, clients, np.zeros(0, np.int64))
        for group, clients in by_group(REQUEST).items()
    }
    with pytest.raises(ProtocolError, match="clients without secrets of this exchange"):
        SumMember(state).reveal(RevealRequest(REQUEST, groups))


OTHERS: dict[str, tuple[Callable[[ShareRequest], ShareRequest], str]] = {
    "a group less": (lambda r: replace(r, groups={0: r.groups[0]}), "other groups"),
    "a client less": (
        lambda r: replace(
            r,
            request=replace(
                r.request, clients=r.request.clients[:-1], groups=r.request.groups[:-1]
            ),
        ),
        "other clients than it asks for",
    ),
    "another round": (
        lambda r: replace(r, request=replace(r.request, round=3)),
        "round 2 of run .*, expected round 3",
    ),
    "another start": (
        lambda r: replace(r, request=replace(r.request, start="c" * 32)),
        "expected round 2 of run '.*/c{32}'",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_request_that_does_not_fit_is_refused(name: str) -> None:
    change, said = OTHERS[name]
    state: Any = RecordDict()
    member = SumMember(state)
    request = share_request(member.keys(KeyRequest(REQUEST, 1)))
    with pytest.raises(ProtocolError, match=said):
        member.shares(change(request))
    member.shares(request)
