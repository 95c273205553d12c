"""The server's side of a secure sum: what it makes of each of the four answers.

Each step takes what clients have answered and returns what the next requests are made of. Clients
that have not answered by then have dropped out.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import ConfigError, ProtocolError, TooFewClients
from fedrec.ragged import Ragged, offsets_of
from fedrec.secure_sum.graph import Graph, degree_of, graph_of, shares_of, threshold_of
from fedrec.secure_sum.keys import mask_key, pair_mask, self_mask
from fedrec.secure_sum.masks import mask_sum
from fedrec.secure_sum.messages import (
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
    joined,
    require,
)
from fedrec.secure_sum.session import Session
from fedrec.secure_sum.shares import combined, commitment
from fedrec.types import IntArray

_NOBODY = "secure sum: no client {}; repeat the round"


@dataclass(frozen=True, slots=True)
class CollectedKeys:
    """What the server knows after the first step.

    Args:
        session: The session.
        threshold: How many shares give a secret back.
        graph: Of the clients that have sent keys.
        keys: Their public keys.
        commitments: uint8 [n, 32], of the seeds of their self-masks.
    """

    session: Session
    threshold: int
    graph: Graph
    keys: Keys
    commitments: ByteArray

    def request(self, clients: IntArray) -> NeighbourKeys:
        """Return what some clients are sent: int64 [c], sorted, of those that have sent keys."""
        closed = self.graph.closed[self.graph.rows(clients)]
        keys = self.keys.take(np.unique(closed))
        return NeighbourKeys(self.session, self.threshold, clients, closed, keys)

    def check(self, came: SealedShares, clients: IntArray) -> None:
        """Check that some clients, int64 [c], sorted, have sent one share to each neighbour.

        Raises:
            ProtocolError: If they have not, or the shares are of another session.
        """
        check_session(came, self.session)
        closed = self.graph.closed[self.graph.rows(clients)]
        is_neighbour = closed != clients[:, None]
        senders = np.repeat(clients, is_neighbour.sum(1))
        fits = _are_pairs(came.senders, came.receivers, senders, closed[is_neighbour])
        require(fits, "shares for other clients than the neighbours of each")


@dataclass(frozen=True, slots=True)
class CollectedShares:
    """What the server knows after the second step.

    Args:
        keys: After the first step.
        shared: bool [n], which clients have shared their secrets.
        senders: For each client, whose shares it is sent.
        sealed: uint8 [nnz, 60], these shares.
    """

    keys: CollectedKeys
    shared: NDArray[np.bool_]
    senders: Ragged
    sealed: ByteArray

    @property
    def clients(self) -> IntArray:
        """int64, sorted, the clients that have shared their secrets."""
        return self.keys.graph.clients[self.shared]

    def request(self, clients: IntArray) -> SealedShares:
        """Return what some clients are sent: int64 [c], sorted, of those that have shared."""
        rows = self.keys.graph.rows(clients)
        senders, at = self.senders.take(rows), self.senders.positions(rows)
        receivers = clients[senders.owners()]
        return SealedShares(self.keys.session, senders.values, receivers, self.sealed[at])


@dataclass(frozen=True, slots=True)
class CollectedSums:
    """What the server knows after the third step.

    Args:
        shares: After the second step.
        survived: bool [n], whose masked vectors have come.
        total: uint64 [m + 1], their sum modulo 2**64.
    """

    shares: CollectedShares
    survived: NDArray[np.bool_]
    total: NDArray[np.uint64]

    @property
    def clients(self) -> IntArray:
        """int64, sorted, the clients whose vectors are in the sum."""
        return self.shares.keys.graph.clients[self.survived]

    def request(self, clients: IntArray) -> Survivors:
        """Return what some clients are sent: int64 [c], sorted, of those that have survived."""
        graph = self.shares.keys.graph
        near = np.zeros(len(graph.clients), np.bool_)
        near[graph.rows(graph.closed[graph.rows(clients)])] = True
        dropped = graph.clients[near & self.shares.shared & ~self.survived]
        survived = graph.clients[near & self.survived]
        return Survivors(self.shares.keys.session, clients, survived, dropped)

    @property
    def n_revealed(self) -> int:
        """How many shares clients are asked to give back, all together."""
        return int(self.shares.keys.graph.counts(self.shares.shared)[self.survived].sum())

    def check(self, came: RevealedShares, clients: IntArray) -> None:
        """Check that some clients, int64 [c], sorted, give back a share of each that they hold.

        Raises:
            ProtocolError: If they do not, or the shares are of another session.
        """
        graph, shared = self.shares.keys.graph, self.shares.shared
        check_session(came, self.shares.keys.session)
        closed = graph.closed[graph.rows(clients)]
        are_held = shared[graph.rows(closed)]
        holders = np.repeat(clients, are_held.sum(1))
        fits = _are_pairs(came.holders, came.owners, holders, closed[are_held])
        require(fits, "shares of other clients than the neighbours of each")


def collect_keys(
    session: Session,
    cohort: IntArray,
    replies: Sequence[PublicKeys],
    fraction: float = 0.5,
    degree: int | None = None,
) -> CollectedKeys:
    """Draw who is whose neighbour among the clients that have sent keys.

    Args:
        session: The session.
        cohort: int64 [n], the clients that were asked; the threshold follows from their number,
            also if some have dropped out.
        replies: Of the nodes.
        fraction: See `fedrec.secure_sum.graph.threshold_of`.
        degree: Number of neighbours of a client; None: `fedrec.secure_sum.graph.degree_of`.

    Raises:
        ConfigError: If the cohort is one client, or the fraction or the degree is too small.
        ProtocolError: If keys are of another session or of other clients.
        TooFewClients: If fewer clients than the threshold have sent keys.
    """
    n = len(cohort)
    if n < 2 or (degree is not None and degree < 1):
        raise ConfigError(
            f"secure sum: {n} clients with {degree} neighbours each, expected 2 clients or more, "
            "of which each has a neighbour: what one client sends alone is its update"
        )
    degree = degree_of(n) if degree is None else degree
    threshold = threshold_of(shares_of(n, degree), fraction)
    for reply in replies:
        check_session(reply, session)
    ids = np.concatenate([np.zeros(0, np.int64), *(reply.keys.clients for reply in replies)])
    require(bool(np.isin(ids, cohort).all()), "keys of clients that were not asked")
    clients, order = np.unique(ids, return_index=True)
    require(len(clients) == len(ids), "keys of a client a second time")
    if len(clients) < threshold:
        raise TooFewClients(
            f"secure sum: {len(clients)} of {n} clients have sent keys, {threshold} are needed; "
            "repeat the round, with more clients if it happens again"
        )
    mask, channel, commitments = (
        np.concatenate(arrays)[order]
        for arrays in zip(
            *((each.keys.mask, each.keys.channel, each.commitments) for each in replies),
            strict=True,
        )
    )
    graph = graph_of(session, clients, degree)
    return CollectedKeys(session, threshold, graph, Keys(clients, mask, channel), commitments)


def collect_shares(collected: CollectedKeys, replies: Sequence[SealedShares]) -> CollectedShares:
    """Sort the shares that clients have sealed by who can open them.

    Args:
        collected: After the first step.
        replies: Of the nodes.

    Raises:
        ProtocolError: If shares are of another session, or a client has not sent one share to each
            neighbour.
        TooFewClients: If too few neighbours of a client have shared their secrets.
    """
    if not any(len(reply.senders) for reply in replies):
        raise TooFewClients(_NOBODY.format("has shared its secrets"))
    came, graph = joined(replies, collected.session), collected.graph
    senders, receivers = came.senders, came.receivers
    shared = np.isin(graph.clients, senders)
    collected.check(came, graph.clients[shared])
    _check_left(graph, shared, shared, collected.threshold, "have shared their secrets")
    order = np.lexsort((senders, receivers))
    order = order[shared[graph.rows(receivers[order])]]
    lengths = np.bincount(graph.rows(receivers[order]), minlength=len(graph.clients))
    return CollectedShares(
        collected, shared, Ragged(offsets_of(lengths), senders[order]), came.sealed[order]
    )


def collect_sums(shares: CollectedShares, replies: Iterable[MaskedSum]) -> CollectedSums:
    """Add up masked vectors.

    Args:
        shares: After the second step.
        replies: Of the nodes, one of them at a time.

    Raises:
        ProtocolError: If a vector is of another session, of another length than others, of clients
            that have not shared their secrets, or of one that has sent a vector already.
        TooFewClients: If too few neighbours of a client have sent vectors.
    """
    graph = shares.keys.graph
    survived, total = np.zeros(len(graph.clients), np.bool_), None
    for reply in replies:
        check_session(reply, shares.keys.session)
        require(bool(np.isin(reply.clients, shares.clients).all()), "vectors of other clients")
        rows = graph.rows(reply.clients)
        require(not survived[rows].any(), "a vector of a client a second time")
        words = reply.words.view("<u8")
        total = np.zeros(len(words), np.uint64) if total is None else total
        require(words.shape == total.shape, "vectors of unequal length")
        total += words
        survived[rows] = True
    if total is None:
        raise TooFewClients(_NOBODY.format("has sent a vector"))
    collected = CollectedSums(shares, survived, total)
    threshold = shares.keys.threshold
    _check_left(graph, survived, _needed(collected), threshold, "have sent vectors")
    return collected


def unmasked(sums: CollectedSums, replies: Sequence[RevealedShares]) -> NDArray[np.uint64]:
    """Return the sum of the vectors of the clients that have survived, modulo 2**64: uint64 [m].

    Args:
        sums: After the third step.
        replies: Of the nodes.

    Raises:
        ProtocolError: If shares are of another session, are not of neighbours, or give back no
            secret of the client: names it; or if the masks do not cancel.
        TooFewClients: If too few shares of a client have come.
    """
    session = sums.shares.keys.session
    if not replies:
        raise TooFewClients(_NOBODY.format("has revealed shares"))
    masks = mask_sum(_masks(sums, _secrets(sums, joined(replies, session))), len(sums.total))
    words = sums.total - masks
    n = int(sums.survived.sum())
    if int(words[-1]) != n:
        raise ProtocolError(
            f"secure sum: the masks of {n} clients do not cancel: one of them has masked its "
            "vector with other keys than it has announced, or with other clients than the server "
            "has named; repeat the round"
        )
    return words[:-1]


def _are_pairs(a: IntArray, b: IntArray, firsts: IntArray, seconds: IntArray) -> bool:
    """Return whether pairs of clients, in any order, are these, which are sorted."""
    order = np.lexsort((b, a))
    return np.array_equal(a[order], firsts) and np.array_equal(b[order], seconds)


def _needed(sums: CollectedSums) -> NDArray[np.bool_]:
    """Return of which clients a secret is needed, bool [n]: all whose masks are in the sum."""
    near = sums.shares.keys.graph.counts(sums.survived) > 0
    return sums.survived | (sums.shares.shared & near)


def _secrets(sums: CollectedSums, came: RevealedShares) -> Iterator[tuple[int, bytes]]:
    """Yield the row of each client of which a secret is needed, and the secret."""
    keys = sums.shares.keys
    graph, threshold = keys.graph, keys.threshold
    needed = _needed(sums)
    for_needed = np.isin(came.owners, graph.clients[needed])
    require(bool(for_needed.all()), "shares that nobody asked for")
    alive = np.isin(came.holders, sums.clients)
    require(bool(alive.all()), "shares of clients that have dropped out")
    rows = graph.rows(came.owners)
    places = graph.places(rows, came.holders)
    require(not (places < 0).any(), "shares of clients that are no neighbours")
    order = np.lexsort((places, rows))
    ends = offsets_of(np.bincount(rows, minlength=len(graph.clients)))
    for row in np.flatnonzero(needed).tolist():
        client = int(graph.clients[row])
        at = order[ends[row] : ends[row + 1]][:threshold]
        check_left(client, len(at), threshold, "have revealed shares of its secret")
        shares = map(bytes, came.shares[at])
        secret = combined(dict(zip(places[at].tolist(), shares, strict=True)))
        if not _is_secret(sums, row, secret):
            of = ", ".join(map(str, came.holders[at].tolist()))
            raise ProtocolError(
                f"secure sum: the shares of client {client} do not give its secret back: one that "
                f"clients {of} hold was changed, or the client has sent wrong ones; repeat the "
                "round"
            )
        yield row, secret


def _is_secret(sums: CollectedSums, row: int, secret: bytes) -> bool:
    """Return whether a secret is the one that a client has committed itself to."""
    keys = sums.shares.keys
    digest, client = keys.session.digest(), int(keys.graph.clients[row])
    if sums.survived[row]:
        return commitment(digest, client, secret) == bytes(keys.commitments[row])
    public = mask_key(digest, client, secret).public_key().public_bytes_raw()
    return public == bytes(keys.keys.mask[row])


def _masks(
    sums: CollectedSums, secrets: Iterable[tuple[int, bytes]]
) -> Iterator[tuple[bytes, bool]]:
    """Yield the masks that are in the sum: keys, and whether each was added."""
    keys = sums.shares.keys
    digest, graph = keys.session.digest(), keys.graph
    for row, secret in secrets:
        client = int(graph.clients[row])
        if sums.survived[row]:
            yield self_mask(digest, client, secret), True
            continue
        key, near = mask_key(digest, client, secret), graph.rows(graph.closed[row])
        for other_row in near[sums.survived[near]].tolist():
            other = int(graph.clients[other_row])
            public = bytes(keys.keys.mask[other_row])
            yield pair_mask(digest, client, key, other, public), other < client


def _check_left(
    graph: Graph,
    left: NDArray[np.bool_],
    of: NDArray[np.bool_],
    threshold: int,
    that: str,
) -> None:
    """Check that enough neighbours of some clients are left; see `check_left`."""
    counts = graph.counts(left)
    for row in np.flatnonzero(of).tolist():
        check_left(int(graph.clients[row]), int(counts[row]), threshold, that)
