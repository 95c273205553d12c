"""The clients' side of a secure sum: four steps, each from what is kept and what the server sends.

A node runs a step for many of its clients at once, and keeps what a step returns until the next; it
must have done so before it sends the answer, so that nothing is masked or revealed in two ways.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from fedrec.ragged import Ragged, offsets_of
from fedrec.secure_sum.graph import Graph
from fedrec.secure_sum.keys import KEY, SEALED, SEED, Channel, mask_key, pair_mask, self_mask
from fedrec.secure_sum.masks import mask_sum
from fedrec.secure_sum.messages import (
    BOTH,
    ByteArray,
    Keys,
    MaskedSum,
    NeighbourKeys,
    PublicKeys,
    RevealedShares,
    SealedShares,
    Survivors,
    check_left,
    check_session,
    checksum_of,
    require,
)
from fedrec.secure_sum.session import Session
from fedrec.secure_sum.shares import commitment, split
from fedrec.types import IntArray


@dataclass(frozen=True, slots=True)
class Secrets:
    """What clients keep after the first step.

    Args:
        session: The session.
        keys: Their public keys.
        mask_seeds: uint8 [c, 16], of their mask keys.
        self_seeds: uint8 [c, 16], of their self-masks.
        channel_keys: uint8 [c, 32], their private keys for channels.
    """

    session: Session
    keys: Keys
    mask_seeds: ByteArray = field(repr=False)
    self_seeds: ByteArray = field(repr=False)
    channel_keys: ByteArray = field(repr=False)


@dataclass(frozen=True, slots=True)
class Shared:
    """What clients keep after the second step.

    Args:
        secrets: Of the first step.
        neighbours: What the server sent.
        self_shares: uint8 [c, 32], the share of its secrets that each keeps for itself.
    """

    secrets: Secrets
    neighbours: NeighbourKeys
    self_shares: ByteArray = field(repr=False)


@dataclass(frozen=True, slots=True)
class Masking:
    """What clients keep from the third step on.

    Args:
        shared: Of the second step.
        clients: int64 [c], sorted, who takes part.
        owners: Whose shares each holds; it is one of them.
        shares: uint8 [nnz, 32], these shares.
        masked: int64, sorted, whose vectors were masked.
        answered: What the server was told to be so before shares were revealed; None: none were.
    """

    shared: Shared
    clients: IntArray
    owners: Ragged
    shares: ByteArray = field(repr=False)
    masked: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    answered: Survivors | None = None


def advertise(session: Session, clients: IntArray) -> tuple[Secrets, PublicKeys]:
    """Make fresh keys and seeds, from the system's source of randomness.

    Args:
        session: The session.
        clients: int64 [c], sorted, each once.
    """
    n, digest = len(clients), session.digest()
    drawn = np.frombuffer(os.urandom(n * (BOTH + KEY)), np.uint8).reshape(n, -1)
    mask_seeds, self_seeds, channel_keys = np.split(drawn, [SEED, BOTH], axis=1)
    ids = clients.tolist()
    public = Keys(
        clients,
        _joined(
            mask_key(digest, *each).public_key().public_bytes_raw()
            for each in zip(ids, map(bytes, mask_seeds), strict=True)
        ),
        _joined(_private(each).public_key().public_bytes_raw() for each in channel_keys),
    )
    commitments = _joined(
        commitment(digest, *each) for each in zip(ids, map(bytes, self_seeds), strict=True)
    )
    secrets = Secrets(session, public, mask_seeds, self_seeds, channel_keys)
    return secrets, PublicKeys(session, public, commitments)


def share(secrets: Secrets, request: NeighbourKeys) -> tuple[Shared, SealedShares]:
    """Split the secrets, and seal a share for each neighbour.

    Args:
        secrets: Of the first step.
        request: The neighbours of the clients that go on.

    Raises:
        ProtocolError: If the request is of another session or about other clients, or a public key
            is none.
    """
    check_session(request, secrets.session)
    clients, keys = request.clients, secrets.keys
    require(bool(np.isin(clients, keys.clients).all()), "clients that have no keys here")
    digest, n = secrets.session.digest(), request.closed.shape[1]
    split_up = [
        np.concatenate(
            [
                split(bytes(seeds[keys.row(client)]), request.threshold, n)
                for seeds in (secrets.mask_seeds, secrets.self_seeds)
            ],
            axis=1,
        )
        for client in clients.tolist()
    ]
    shares = np.array(split_up, np.uint8).reshape(*request.closed.shape, BOTH)
    is_self = request.closed == clients[:, None]

    def sealed() -> Iterator[bytes]:
        for client, others, texts in zip(clients.tolist(), request.closed, shares, strict=True):
            private = _private(secrets.channel_keys[keys.row(client)])
            for other, text in zip(others.tolist(), texts, strict=True):
                if other != client:
                    channel = Channel(digest, client, private, other, _channel(request.keys, other))
                    yield channel.seal(bytes(text), keys.of(client) + request.keys.of(other))

    senders = np.repeat(clients, n - 1)
    sent = SealedShares(
        secrets.session, senders, request.closed[~is_self], _joined(sealed(), BOTH + SEALED)
    )
    return Shared(secrets, request, shares[is_self]), sent


def receive(shared: Shared, request: SealedShares) -> Masking:
    """Open the shares that neighbours have sent.

    Args:
        shared: Of the second step.
        request: Shares of the neighbours that have sent some, for the clients that go on.

    Raises:
        ProtocolError: If the request is of another session or about other clients, or shares
            cannot be opened: names the client that sent them.
        TooFewClients: If a client has too few neighbours left.
    """
    secrets, neighbours = shared.secrets, shared.neighbours
    check_session(request, secrets.session)
    clients = np.unique(request.receivers)
    require(bool(np.isin(clients, neighbours.clients).all()), "shares for other clients")
    graph = Graph(neighbours.clients, neighbours.closed)
    places = graph.places(graph.rows(request.receivers), request.senders)
    strangers = (places < 0) | (request.senders == request.receivers)
    require(not strangers.any(), "shares of clients that are no neighbours")
    digest = secrets.session.digest()
    owners, lengths, shares = list[int](), list[int](), list[bytes]()
    order = np.argsort(request.receivers, kind="stable")
    starts = np.searchsorted(request.receivers[order], clients)
    rows = graph.rows(clients).tolist()
    for client, row, came in zip(clients.tolist(), rows, np.split(order, starts)[1:], strict=True):
        private = _private(secrets.channel_keys[secrets.keys.row(client)])
        owners += [client, *request.senders[came].tolist()]
        lengths.append(1 + len(came))
        check_left(client, lengths[-1], neighbours.threshold, "have shared their secrets")
        shares.append(bytes(shared.self_shares[row]))
        for other, sealed in zip(owners[-len(came) :], request.sealed[came], strict=True):
            channel = Channel(digest, client, private, other, _channel(neighbours.keys, other))
            seen = neighbours.keys.of(other) + secrets.keys.of(client)
            shares.append(channel.open(bytes(sealed), seen))
    held = Ragged(offsets_of(np.array(lengths, np.int64)), np.array(owners, np.int64))
    return Masking(shared, clients, held, _joined(shares, BOTH))


def mask(
    masking: Masking, clients: IntArray, vector: NDArray[np.uint64]
) -> tuple[Masking, MaskedSum]:
    """Mask the sum of the vectors of some clients.

    Masks that two of them share cancel in the sum, and are left out.

    Args:
        masking: Of the third step.
        clients: int64 [c], sorted, each once, at least one: whose vectors are summed.
        vector: uint64 [m], their sum modulo 2**64; of less than 2**63 in all clients together.

    Raises:
        ProtocolError: If a client has no part in the sum, or its vector was masked before.
    """
    secrets = masking.shared.secrets
    require(bool(np.isin(clients, masking.clients).all()), "vectors of clients without shares")
    twice = np.isin(clients, masking.masked).any()
    require(not twice, "a second vector of a client, which would give away the first")
    digest, public = secrets.session.digest(), masking.shared.neighbours.keys

    def masks() -> Iterator[tuple[bytes, bool]]:
        together = {*clients.tolist()}
        for client in clients.tolist():
            at = secrets.keys.row(client)
            yield self_mask(digest, client, bytes(secrets.self_seeds[at])), True
            key = mask_key(digest, client, bytes(secrets.mask_seeds[at]))
            row = int(np.searchsorted(masking.clients, client))
            for other in sorted({*masking.owners.row(row).tolist()} - together):
                of_other = bytes(public.mask[public.row(other)])
                yield pair_mask(digest, client, key, other, of_other), client < other

    words = mask_sum(masks(), len(vector) + 1)
    words[:-1] += vector
    words[-1] += np.uint64(len(clients))
    sent = words.astype("<u8", copy=False).view(np.uint8)
    checksum = checksum_of(secrets.session, clients, sent)
    after = replace(masking, masked=np.union1d(masking.masked, clients))
    return after, MaskedSum(secrets.session, clients, sent, checksum)


def reveal(masking: Masking, request: Survivors) -> tuple[Masking, RevealedShares]:
    """Give back what the server needs to remove the masks of the neighbours.

    Of a neighbour that has survived it is the share of the seed of its self-mask, of one that has
    dropped out the share of its mask key; both would unmask its vector.

    Args:
        masking: Of the third step.
        request: Which neighbours of some clients have survived, and which have dropped out.

    Raises:
        ProtocolError: If the request is of another session, about clients whose vector was not
            masked, says nothing of a neighbour, or something else than before.
        TooFewClients: If too few neighbours of a client have survived.
    """
    check_session(request, masking.shared.secrets.session)
    before = masking.answered or request
    same = all(
        np.array_equal(getattr(before, name), getattr(request, name))
        for name in ("clients", "survived", "dropped")
    )
    require(same, "other survivors than before")
    holders, masked = request.clients, masking.masked
    were_masked = bool((np.isin(holders, masked) & np.isin(holders, request.survived)).all())
    require(were_masked, "clients that have sent no vector")
    rows = np.searchsorted(masking.clients, holders)
    held, shares = masking.owners.take(rows), masking.shares[masking.owners.positions(rows)]
    survived = np.isin(held.values, request.survived)
    is_clear = survived | np.isin(held.values, request.dropped)
    require(bool(is_clear.all()), "neighbours that have neither survived nor dropped out")
    left = held.where(survived).lengths
    for client, n in zip(holders.tolist(), left.tolist(), strict=True):
        check_left(client, n, masking.shared.neighbours.threshold, "have sent vectors")
    revealed = np.where(survived[:, None], shares[:, SEED:], shares[:, :SEED])
    sent = RevealedShares(request.session, holders[held.owners()], held.values, revealed)
    return replace(masking, answered=request), sent


def _private(key: ByteArray) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes(key))


def _channel(keys: Keys, client: int) -> bytes:
    return bytes(keys.channel[keys.row(client)])


def _joined(rows: Iterable[bytes], width: int = KEY) -> ByteArray:
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, width)
