"""What is changed, repeated or made up is refused by name; it never becomes a wrong sum."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedrec.errors import ConfigError, ProtocolError, TooFewClients
from fedrec.secure_sum import client, server
from fedrec.secure_sum.client import Masking, Secrets, Shared
from fedrec.secure_sum.messages import (
    ByteArray,
    MaskedSum,
    PublicKeys,
    RevealedShares,
    SealedShares,
    checksum_of,
)
from fedrec.secure_sum.session import Session
from tests.secure_sums import ints

N = 5
EVERYBODY = np.arange(N)
VECTORS = np.random.default_rng(0).integers(0, 2**40, (N, 20), np.uint64)
OTHERS = [Session("a", 2), Session("b", 1), Session("a", 1, 1), Session("a", 1, 0, 1)]


class Steps:
    """A session of five clients, each a node, up to the step that a test asks for."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.secrets: list[Secrets] = []
        self.public: list[PublicKeys] = []
        for k in range(N):
            secrets, public = client.advertise(session, ints([k]))
            self.secrets.append(secrets)
            self.public.append(public)

    def keys(self, public: list[PublicKeys] | None = None) -> server.CollectedKeys:
        return server.collect_keys(self.session, EVERYBODY, public or self.public)

    def shared(self, keys: server.CollectedKeys) -> tuple[list[Shared], list[SealedShares]]:
        both = [client.share(self.secrets[k], keys.request(ints([k]))) for k in range(N)]
        return [state for state, _ in both], [sent for _, sent in both]

    def masked(
        self, public: list[PublicKeys] | None = None
    ) -> tuple[server.CollectedShares, list[Masking], list[MaskedSum]]:
        states, sent = self.shared(self.keys(public))
        shares = server.collect_shares(self.keys(public), sent)
        both = [
            client.mask(client.receive(states[k], shares.request(ints([k]))), ints([k]), VECTORS[k])
            for k in range(N)
        ]
        return shares, [state for state, _ in both], [sent for _, sent in both]

    def revealed(
        self, survived: list[int]
    ) -> tuple[server.CollectedSums, list[Masking], list[RevealedShares]]:
        shares, states, sent = self.masked()
        sums = server.collect_sums(shares, [sent[k] for k in survived])
        both = [client.reveal(states[k], sums.request(ints([k]))) for k in survived]
        return sums, [state for state, _ in both], [sent for _, sent in both]


STEPS = Steps(Session("a", 1))


def test_the_steps_give_the_sum() -> None:
    sums, _, revealed = STEPS.revealed([0, 1, 3, 4])
    assert np.array_equal(server.unmasked(sums, revealed), VECTORS[[0, 1, 3, 4]].sum(0))


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_messages_of_another_session_are_refused(other: Session) -> None:
    """Of another run, round, group or attempt; at each step, on either side."""
    before = Steps(other)
    keys, old_keys = STEPS.keys(), before.keys()
    states, _ = STEPS.shared(keys)
    _, old_sealed = before.shared(old_keys)
    shares, masking, _ = STEPS.masked()
    old_shares, _, old_masked = before.masked()
    sums, _, _ = STEPS.revealed([*range(N)])
    old_sums, _, old_revealed = before.revealed([*range(N)])
    k = ints([0])
    replays: list[Callable[[], Any]] = [
        lambda: server.collect_keys(STEPS.session, EVERYBODY, before.public),
        lambda: client.share(STEPS.secrets[0], old_keys.request(k)),
        lambda: server.collect_shares(keys, old_sealed),
        lambda: client.receive(states[0], old_shares.request(k)),
        lambda: server.collect_sums(shares, old_masked),
        lambda: client.reveal(masking[0], old_sums.request(k)),
        lambda: server.unmasked(sums, old_revealed),
    ]
    for replay in replays:
        with pytest.raises(ProtocolError, match=r"round \d of run '\w', group .* expected"):
            replay()


def test_messages_that_claim_to_be_of_this_session_are_refused() -> None:
    """As above, but the name of the session was changed too."""
    before, session = Steps(OTHERS[0]), STEPS.session
    old_keys = [replace(each, session=session) for each in before.public]
    states, sealed = STEPS.shared(STEPS.keys([*STEPS.public[:4], old_keys[4]]))
    shares = server.collect_shares(STEPS.keys(), sealed)
    with pytest.raises(ProtocolError, match="client 4 cannot open the shares of client 0"):
        client.receive(states[4], shares.request(ints([4])))

    _, old_sealed = before.shared(before.keys())
    states, sealed = STEPS.shared(STEPS.keys())
    mixed = [*sealed[:4], replace(old_sealed[4], session=session)]
    shares = server.collect_shares(STEPS.keys(), mixed)
    with pytest.raises(ProtocolError, match="client 0 cannot open the shares of client 4"):
        client.receive(states[0], shares.request(ints([0])))

    shares, masking, sent = STEPS.masked()
    old = before.masked()[2][4]
    checksum = checksum_of(session, old.clients, old.words)
    mixed_sums = [*sent[:4], replace(old, session=session, checksum=checksum)]
    sums = server.collect_sums(shares, mixed_sums)
    revealed = [client.reveal(masking[k], sums.request(ints([k])))[1] for k in range(N)]
    with pytest.raises(ProtocolError, match="do not cancel"):
        server.unmasked(sums, revealed)

    sums, _, revealed = STEPS.revealed([*range(N)])
    old_revealed = before.revealed([*range(N)])[2]
    with pytest.raises(ProtocolError, match="shares of client 0 do not give its secret back"):
        server.unmasked(sums, [replace(old_revealed[0], session=session), *revealed[1:]])


def with_key(public: PublicKeys, kind: str, key: ByteArray) -> PublicKeys:
    changed: dict[str, Any] = {kind: key[None]}
    return replace(public, keys=replace(public.keys, **changed))


@pytest.mark.parametrize("kind", ["mask", "channel"])
def test_a_public_key_that_was_changed_on_the_way_is_noticed(kind: str) -> None:
    other = getattr(Steps(STEPS.session).public[2].keys, kind)[0]
    changed = [*STEPS.public]
    changed[2] = with_key(changed[2], kind, other)
    with pytest.raises(ProtocolError, match=r"client \d cannot open the shares of client \d"):
        STEPS.masked(changed)


@pytest.mark.parametrize("kind", ["mask", "channel"])
def test_what_is_no_public_key_is_noticed(kind: str) -> None:
    changed = [*STEPS.public]
    changed[2] = with_key(changed[2], kind, np.zeros(32, np.uint8))
    with pytest.raises(ProtocolError, match="client"):
        STEPS.masked(changed)


def lying(steps: Steps, kind: str) -> Steps:
    """Return steps in which client 2 works with another mask key than it announces."""
    liar = steps.secrets[2]
    announced = Steps(steps.session).secrets[2]
    false = Steps(steps.session)
    false.secrets, false.public = [*steps.secrets], [*steps.public]
    keys = replace(liar.keys, mask=announced.keys.mask)
    false.secrets[2] = replace(liar, keys=keys)
    false.public[2] = replace(steps.public[2], keys=keys)
    if kind == "seed":
        false.public[2] = replace(steps.public[2], commitments=steps.public[1].commitments)
        false.secrets[2] = liar
    return false


def test_a_client_that_masks_with_another_key_than_it_announces_is_noticed() -> None:
    sums, _, revealed = lying(STEPS, "key").revealed([*range(N)])
    with pytest.raises(ProtocolError, match="masks of 5 clients do not cancel"):
        server.unmasked(sums, revealed)
    sums, _, revealed = lying(STEPS, "key").revealed([0, 1, 3, 4])
    with pytest.raises(ProtocolError, match="shares of client 2 do not give its secret back"):
        server.unmasked(sums, revealed)


def test_a_client_that_shares_another_seed_than_it_announces_is_noticed() -> None:
    sums, _, revealed = lying(STEPS, "seed").revealed([*range(N)])
    with pytest.raises(ProtocolError, match="shares of client 2 do not give its secret back"):
        server.unmasked(sums, revealed)


@pytest.mark.parametrize("survived", [[0, 1, 2, 3, 4], [0, 1, 3, 4]])
@pytest.mark.parametrize("owner", range(N))
def test_a_garbled_share_is_noticed(survived: list[int], owner: int) -> None:
    sums, _, revealed = STEPS.revealed(survived)
    shares = revealed[0].shares.copy()
    shares[revealed[0].owners == owner, 3] ^= 4
    changed = [replace(revealed[0], shares=shares), *revealed[1:]]
    with pytest.raises(ProtocolError, match=f"shares of client {owner} .* clients 0, "):
        server.unmasked(sums, changed)


def test_garbled_sealed_shares_are_noticed() -> None:
    states, sent = STEPS.shared(STEPS.keys())
    sealed = sent[3].sealed.copy()
    sealed[sent[3].receivers == 1, -1] ^= 1
    shares = server.collect_shares(STEPS.keys(), [*sent[:3], replace(sent[3], sealed=sealed)])
    client.receive(states[0], shares.request(ints([0])))
    with pytest.raises(ProtocolError, match="client 1 cannot open the shares of client 3"):
        client.receive(states[1], shares.request(ints([1])))


def test_a_second_message_of_a_client_is_refused() -> None:
    with pytest.raises(ProtocolError, match="keys of a client a second time"):
        server.collect_keys(STEPS.session, EVERYBODY, [*STEPS.public, STEPS.public[0]])
    _, sealed = STEPS.shared(STEPS.keys())
    with pytest.raises(ProtocolError, match="pair of clients twice"):
        server.collect_shares(STEPS.keys(), [*sealed, sealed[0]])
    shares, _, masked = STEPS.masked()
    with pytest.raises(ProtocolError, match="vector of a client a second time"):
        server.collect_sums(shares, [*masked, masked[0]])
    sums, _, revealed = STEPS.revealed([*range(N)])
    with pytest.raises(ProtocolError, match="pair of clients twice"):
        server.unmasked(sums, [*revealed, revealed[0]])


def test_messages_of_other_clients_are_refused() -> None:
    with pytest.raises(ProtocolError, match="clients that were not asked"):
        server.collect_keys(STEPS.session, EVERYBODY[:-1], STEPS.public)
    keys = STEPS.keys(STEPS.public[:4])
    states = {k: client.share(STEPS.secrets[k], keys.request(ints([k]))) for k in range(4)}
    _, for_all = STEPS.shared(STEPS.keys())
    with pytest.raises(ProtocolError, match="other clients than the neighbours"):
        server.collect_shares(keys, [states[0][1], for_all[1]])
    shares = server.collect_shares(keys, [states[k][1] for k in range(3)])
    with pytest.raises(ProtocolError, match="vectors of other clients"):
        server.collect_sums(shares, STEPS.masked()[2])
    sums, _, _ = STEPS.revealed([0, 1, 2])
    with pytest.raises(ProtocolError, match="clients that have dropped out"):
        server.unmasked(sums, STEPS.revealed([*range(N)])[2])


def test_vectors_of_unequal_length_are_refused() -> None:
    shares, masking, sent = STEPS.masked()
    fresh = replace(masking[1], masked=ints([]))
    longer = client.mask(fresh, ints([1]), np.zeros(21, np.uint64))[1]
    with pytest.raises(ProtocolError, match="unequal length"):
        server.collect_sums(shares, [sent[0], longer])


def test_a_vector_is_masked_once() -> None:
    _, masking, _ = STEPS.masked()
    with pytest.raises(ProtocolError, match="a second vector of a client"):
        client.mask(masking[0], ints([0]), VECTORS[0])


def test_shares_of_both_secrets_are_never_revealed() -> None:
    """Whatever the server claims: a client answers one list of survivors, and no other."""
    shares, masking, sent = STEPS.masked()
    first = server.collect_sums(shares, sent).request(ints([0]))
    second = server.collect_sums(shares, sent[:4]).request(ints([0]))
    after, revealed = client.reveal(masking[0], first)
    with pytest.raises(ProtocolError, match="other survivors than before"):
        client.reveal(after, second)
    again = client.reveal(after, first)[1]
    assert np.array_equal(again.shares, revealed.shares)


def test_a_list_that_leaves_a_neighbour_out_is_refused() -> None:
    shares, masking, sent = STEPS.masked()
    request = server.collect_sums(shares, sent).request(ints([0]))
    with pytest.raises(ProtocolError, match="neither survived nor dropped out"):
        client.reveal(masking[0], replace(request, survived=request.survived[:-1]))
    for other in (ints([1, 2, 3, 4]), ints([0, 1])):
        with pytest.raises(ProtocolError, match="clients that have sent no vector"):
            client.reveal(masking[0], replace(request, clients=other))
    with pytest.raises(ProtocolError, match="clients that have sent no vector"):
        client.reveal(masking[0], replace(request, survived=ints([1, 2, 3, 4]), dropped=ints([0])))


def test_clients_refuse_if_too_few_are_left() -> None:
    """Also if the server does not: what it could learn would be of too few."""
    states, sealed = STEPS.shared(STEPS.keys())
    shares = server.collect_shares(STEPS.keys(), sealed)
    request = shares.request(ints([0]))
    few = replace(
        request,
        senders=request.senders[:1],
        receivers=request.receivers[:1],
        sealed=request.sealed[:1],
    )
    with pytest.raises(TooFewClients, match=r"client 0 .* 2 have shared .* 3 are needed"):
        client.receive(states[0], few)
    shares, masking, sent = STEPS.masked()
    survivors = server.collect_sums(shares, sent).request(ints([0]))
    few_survive = replace(survivors, survived=ints([0, 1]), dropped=ints([2, 3, 4]))
    with pytest.raises(TooFewClients, match=r"client 0 .* 2 have sent .* 3 are needed"):
        client.reveal(masking[0], few_survive)


def test_requests_about_other_clients_are_refused() -> None:
    keys = STEPS.keys()
    with pytest.raises(ProtocolError, match="no keys here"):
        client.share(STEPS.secrets[0], keys.request(ints([1])))
    states, sealed = STEPS.shared(keys)
    shares = server.collect_shares(keys, sealed)
    with pytest.raises(ProtocolError, match="shares for other clients"):
        client.receive(states[0], shares.request(ints([1])))
    with pytest.raises(ProtocolError, match="no neighbours"):
        request = shares.request(ints([0]))
        client.receive(states[0], replace(request, senders=request.senders + 1))
    _, masking, _ = STEPS.masked()
    with pytest.raises(ProtocolError, match="clients without shares"):
        client.mask(masking[0], ints([1]), VECTORS[1])


def test_one_client_has_no_secure_sum() -> None:
    with pytest.raises(ConfigError, match="2 clients or more"):
        server.collect_keys(STEPS.session, EVERYBODY[:1], STEPS.public[:1])


@pytest.mark.parametrize("step", ["keys", "shares", "no pairs", "sums", "revealed"])
def test_nobody_answers(step: str) -> None:
    shares, _, _ = STEPS.masked()
    sums, _, _ = STEPS.revealed([*range(N)])
    empty = SealedShares(STEPS.session, ints([]), ints([]), np.zeros((0, 60), np.uint8))
    calls: dict[str, Callable[[], Any]] = {
        "keys": lambda: server.collect_keys(STEPS.session, EVERYBODY, []),
        "shares": lambda: server.collect_shares(STEPS.keys(), []),
        "no pairs": lambda: server.collect_shares(STEPS.keys(), [empty]),
        "sums": lambda: server.collect_sums(shares, []),
        "revealed": lambda: server.unmasked(sums, []),
    }
    with pytest.raises(TooFewClients):
        calls[step]()
