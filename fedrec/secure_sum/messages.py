"""What server and nodes send each other in a secure sum, and what nodes keep in between.

A node may send and receive for many clients at a time. Values are checked when they are made, also
when they are read from a message.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import ProtocolError, TooFewClients
from fedrec.secure_sum.keys import KEY, SEALED, SEED
from fedrec.secure_sum.session import Session
from fedrec.types import IntArray

ByteArray: TypeAlias = NDArray[np.uint8]

BOTH = 2 * SEED
"""Bytes of a share of the mask key, followed by one of the seed of the self-mask."""
WORD = 8
"""Bytes of a number of a masked vector."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Public keys of some clients.

    Args:
        clients: int64 [c], sorted, each once.
        mask: uint8 [c, 32], with which they agree on masks.
        channel: uint8 [c, 32], with which they seal what they send each other.
    """

    clients: IntArray
    mask: ByteArray
    channel: ByteArray

    def __post_init__(self) -> None:
        """Check the shapes."""
        _check_clients(self.clients)
        _check_bytes("mask keys", self.mask, len(self.clients), KEY)
        _check_bytes("channel keys", self.channel, len(self.clients), KEY)

    def row(self, client: int) -> int:
        """Return where a client stands."""
        return int(np.searchsorted(self.clients, client))

    def of(self, client: int) -> bytes:
        """Return the keys of a client, one after the other."""
        at = self.row(client)
        return bytes(self.mask[at]) + bytes(self.channel[at])

    def take(self, clients: IntArray) -> "Keys":
        """Return the keys of some of the clients, int64 [c], sorted."""
        at = np.searchsorted(self.clients, clients)
        return Keys(clients, self.mask[at], self.channel[at])


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """What clients send first.

    Args:
        session: Of which they are.
        keys: Their public keys.
        commitments: uint8 [c, 32], of the seeds of their self-masks, see
            `fedrec.secure_sum.shares.commitment`.
    """

    session: Session
    keys: Keys
    commitments: ByteArray

    def __post_init__(self) -> None:
        """Check the shapes."""
        _check_bytes("commitments", self.commitments, len(self.keys.clients), KEY)


@dataclass(frozen=True, slots=True)
class NeighbourKeys:
    """What clients are sent to share their secrets.

    Args:
        session: The session.
        threshold: How many shares give a secret back.
        clients: int64 [c], sorted, each once: who is meant.
        closed: int64 [c, s], the neighbours of each, and itself, sorted.
        keys: Of all of these.
    """

    session: Session
    threshold: int
    clients: IntArray
    closed: IntArray
    keys: Keys

    def __post_init__(self) -> None:
        """Check the shapes, and that no secret could be given back against the client's will.

        Shares of a client are revealed once each, of one secret or the other: more than half of
        them cannot be those of both.
        """
        _check_clients(self.clients)
        closed = self.closed
        fits = closed.ndim == 2 and len(closed) == len(self.clients) and closed.dtype == np.int64
        require(fits, "neighbours of something else")
        rises = bool((closed[:, 1:] > closed[:, :-1]).all())
        require(rises, "neighbours that are not sorted, each once")
        require(bool((closed == self.clients[:, None]).any(1).all()), "a client that is left out")
        require(bool(np.isin(closed, self.keys.clients).all()), "a neighbour without keys")
        n = closed.shape[1]
        fits = n < 2 * self.threshold <= 2 * n
        require(fits, f"a threshold of {self.threshold} for {n} shares")


@dataclass(frozen=True, slots=True)
class SealedShares:
    """Shares of secrets, sealed, on their way through the server.

    Args:
        session: The session.
        senders: int64 [e], whose secrets they are shares of.
        receivers: int64 [e], who can open them.
        sealed: uint8 [e, 60].
    """

    session: Session
    senders: IntArray
    receivers: IntArray
    sealed: ByteArray

    def __post_init__(self) -> None:
        """Check the shapes."""
        _check_pairs(self.senders, self.receivers)
        _check_bytes("shares", self.sealed, len(self.senders), BOTH + SEALED)


@dataclass(frozen=True, slots=True)
class MaskedSum:
    """The sum of the masked vectors of some clients of a node, modulo 2**64.

    Args:
        session: The session.
        clients: int64 [c], sorted, each once: whose vectors are in it.
        words: uint8 [8 (m + 1)], little-endian uint64: m of the vector and one that counts clients.
        checksum: uint8 [32], of all of it, which shows when it was damaged.
    """

    session: Session
    clients: IntArray
    words: ByteArray
    checksum: ByteArray

    def __post_init__(self) -> None:
        """Check the shapes and the checksum."""
        _check_clients(self.clients)
        require(len(self.clients) > 0, "a masked vector of nobody")
        fits = self.words.ndim == 1 and self.words.dtype == np.uint8
        require(fits and self.words.size % WORD == 0, "words of something else")
        expected = checksum_of(self.session, self.clients, self.words)
        fits = self.checksum.dtype == np.uint8 and np.array_equal(self.checksum, expected)
        require(fits, "a masked vector that was damaged")


@dataclass(frozen=True, slots=True)
class Survivors:
    """What clients are told before they reveal shares.

    Args:
        session: The session.
        clients: int64 [c], sorted, each once: who is meant.
        survived: int64, sorted, clients whose masked vector has come: of these, the server needs
            the seed of its self-mask.
        dropped: int64, sorted, clients that have shared their secrets and sent nothing since: of
            these, it needs the mask key.
    """

    session: Session
    clients: IntArray
    survived: IntArray
    dropped: IntArray

    def __post_init__(self) -> None:
        """Check the shapes, and that no client is in both."""
        _check_clients(self.clients)
        _check_clients(self.survived)
        _check_clients(self.dropped)
        both = np.intersect1d(self.survived, self.dropped)
        require(not len(both), "clients that have both survived and dropped out")


@dataclass(frozen=True, slots=True)
class RevealedShares:
    """Shares that clients give back: of one secret of each neighbour, as `Survivors` asks for.

    Args:
        session: The session.
        holders: int64 [e], who held them.
        owners: int64 [e], whose secrets they are shares of.
        shares: uint8 [e, 16].
    """

    session: Session
    holders: IntArray
    owners: IntArray
    shares: ByteArray = field(repr=False)

    def __post_init__(self) -> None:
        """Check the shapes."""
        _check_pairs(self.holders, self.owners)
        _check_bytes("shares", self.shares, len(self.holders), SEED)


Pairs = TypeVar("Pairs", SealedShares, RevealedShares)


def joined(messages: Sequence[Pairs], session: Session) -> Pairs:
    """Return what several messages of a session hold as one.

    Args:
        messages: At least one.
        session: The session.

    Raises:
        ProtocolError: If a message is of another session, or a pair stands in two.
    """
    for message in messages:
        check_session(message, session)
    columns = [each.name for each in fields(messages[0])[1:]]
    arrays = (np.concatenate([getattr(each, name) for each in messages]) for name in columns)
    return type(messages[0])(session, *arrays)


def checksum_of(session: Session, clients: IntArray, words: ByteArray) -> ByteArray:
    """Return the checksum of a `MaskedSum`, uint8 [32]."""
    hashed = hashlib.sha256(session.digest())
    hashed.update(clients.astype("<i8").tobytes())
    hashed.update(np.ascontiguousarray(words).data)
    return np.frombuffer(hashed.digest(), np.uint8)


def check_session(message: Any, session: Session) -> None:
    """Check that a message belongs to a session.

    Raises:
        ProtocolError: If it does not.
    """
    require(message.session == session, f"{message.session}, expected {session}")


def check_left(client: int, n: int, threshold: int, that: str) -> None:
    """Check that a client and enough of its neighbours are left.

    Args:
        client: The client.
        n: How many are left, itself among them.
        threshold: How many are needed.
        that: What these have done.

    Raises:
        TooFewClients: If they are not enough.
    """
    if n < threshold:
        raise TooFewClients(
            f"secure sum: of client {client} and its neighbours, {n} {that}, {threshold} are "
            "needed; repeat the round, with more clients if it happens again"
        )


def require(fits: bool, came: str) -> None:
    """Raise a ProtocolError that says what came, unless it fits."""
    if not fits:
        raise ProtocolError(
            f"secure sum: a message has {came}; it was changed or repeated on its way, or server "
            "and nodes run different programs: install the same version of fedrec"
        )


def _check_clients(clients: IntArray) -> None:
    fits = clients.ndim == 1 and clients.dtype == np.int64
    fits = fits and bool((np.diff(clients, prepend=-1) > 0).all())
    require(fits, "clients that are not sorted, each once")


def _check_pairs(a: IntArray, b: IntArray) -> None:
    fits = a.ndim == 1 and a.shape == b.shape and a.dtype == b.dtype == np.int64
    require(fits, "pairs of clients that do not fit")
    order = np.lexsort((b, a))
    a, b = a[order], b[order]
    twice = (a[1:] == a[:-1]) & (b[1:] == b[:-1])
    require(not twice.any(), "a pair of clients twice")


def _check_bytes(what: str, values: ByteArray, n: int, width: int) -> None:
    fits = values.shape == (n, width) and values.dtype == np.uint8
    require(fits, f"{what} of the shape {list(values.shape)}, expected [{n}, {width}]")
