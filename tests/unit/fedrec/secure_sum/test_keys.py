import os

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedrec.errors import ProtocolError
from fedrec.secure_sum.keys import Channel, mask_key, pair_mask, self_mask
from fedrec.secure_sum.session import Session

DIGEST, OTHER_DIGEST = (Session("a", round).digest() for round in (1, 2))
SEEDS = [os.urandom(16) for _ in range(3)]
KEYS = [mask_key(DIGEST, client, seed) for client, seed in enumerate(SEEDS)]
PUBLIC = [key.public_key().public_bytes_raw() for key in KEYS]


def channel(client: int, other: int, digest: bytes = DIGEST) -> Channel:
    return Channel(digest, client, KEYS[client], other, PUBLIC[other])


def test_two_clients_agree_on_a_mask_that_no_other_pair_has() -> None:
    masks = {
        (a, b): pair_mask(DIGEST, a, KEYS[a], b, PUBLIC[b])
        for a in range(3)
        for b in range(3)
        if a != b
    }
    assert all(masks[a, b] == masks[b, a] for a, b in masks)
    assert len({*masks.values()}) == 3


def test_keys_differ_by_session_client_and_purpose() -> None:
    again = pair_mask(OTHER_DIGEST, 0, KEYS[0], 1, PUBLIC[1])
    assert again != pair_mask(DIGEST, 0, KEYS[0], 1, PUBLIC[1])
    seed = SEEDS[0]
    derived = {
        self_mask(DIGEST, 0, seed),
        self_mask(DIGEST, 1, seed),
        self_mask(OTHER_DIGEST, 0, seed),
        *(mask_key(digest, 0, seed).private_bytes_raw() for digest in (DIGEST, OTHER_DIGEST)),
    }
    assert len(derived) == 5


def test_sessions_have_digests_of_their_own() -> None:
    sessions = [
        Session("a", 1),
        Session("a", 11),
        Session("a", 1, 1),
        Session("a", 1, 0, 1),
        Session("a', 1", 1),
        Session("b", 1),
    ]
    assert len({each.digest() for each in sessions}) == len(sessions)


def test_a_text_is_opened_by_its_receiver_only() -> None:
    sealed = channel(0, 1).seal(b"text", b"seen")
    assert channel(1, 0).open(sealed, b"seen") == b"text"
    assert b"text" not in sealed
    changed = bytes([sealed[0] ^ 1, *sealed[1:]])
    for of, arguments in (
        (channel(2, 0), (sealed, b"seen")),
        (channel(0, 1), (sealed, b"seen")),  # the sender cannot be made to take it for an answer
        (channel(1, 2), (sealed, b"seen")),
        (channel(1, 0, OTHER_DIGEST), (sealed, b"seen")),
        (channel(1, 0), (sealed, b"other")),
        (channel(1, 0), (changed, b"seen")),
        (channel(1, 0), (sealed[:-1], b"seen")),
    ):
        with pytest.raises(ProtocolError, match="cannot open the shares of client"):
            of.open(*arguments)


def test_a_text_is_never_sealed_twice_alike() -> None:
    assert channel(0, 1).seal(b"text", b"") != channel(0, 1).seal(b"text", b"")


def test_what_is_no_public_key_is_refused() -> None:
    for public in (bytes(32), bytes([1, *bytes(31)])):  # points of small order
        with pytest.raises(ProtocolError, match="public key of client 7"):
            pair_mask(DIGEST, 0, X25519PrivateKey.generate(), 7, public)
