"""Which clients share secrets: a random regular graph, and how many shares give a secret back."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import ConfigError
from fedrec.ragged import Ragged
from fedrec.secure_sum.session import Session, bound
from fedrec.types import IntArray


def degree_of(n_clients: int) -> int:
    """Return how many neighbours each of n clients has: about four times log2(n).

    Of 1,000 clients each has 40. If one in ten drops out, more than half of the shares of each are
    left but with probability 2e-8; if one in five does, .005. (A union bound over clients whose
    neighbours drop out independently.)
    """
    return min(n_clients - 1, 2 * math.ceil(2 * math.log2(n_clients)))


def shares_of(n_clients: int, degree: int) -> int:
    """Return in how many shares each of n clients splits its secrets.

    Args:
        n_clients: Of a `graph_of` as many.
        degree: Of the graph.
    """
    return min(2 * math.ceil(degree / 2) + 1, n_clients)


def threshold_of(n_shares: int, fraction: float) -> int:
    """Return how many of some shares give a secret back.

    Args:
        n_shares: Number of shares.
        fraction: More than this. From .5, so that a client's shares cannot give back both of its
            secrets, of which each neighbour reveals one at most; below 1.

    Raises:
        ConfigError: If the fraction is another.
    """
    if not 0.5 <= fraction < 1:
        raise ConfigError(f"secure sum: the threshold is {fraction}, expected 0.5 to below 1")
    return math.floor(fraction * n_shares) + 1


@dataclass(frozen=True, slots=True)
class Graph:
    """Who is a neighbour of whom.

    Args:
        clients: int64 [n], sorted.
        closed: int64 [n, s], the neighbours of each client and the client itself, sorted.
    """

    clients: IntArray
    closed: IntArray

    def rows(self, clients: IntArray) -> IntArray:
        """Return where some of the clients stand, int64 [c]."""
        return np.searchsorted(self.clients, clients)

    def places(self, rows: IntArray, clients: IntArray) -> IntArray:
        """Return where clients stand among the neighbours of others, int64 [e]; -1: they do not.

        Args:
            rows: int64 [e], the rows of the others.
            clients: int64 [e], one each.
        """
        n, width = self.closed.shape
        at = Ragged(width * np.arange(n + 1), self.closed.reshape(-1)).find(rows, clients)
        return np.where(at < 0, -1, at - width * rows)

    def counts(self, chosen: NDArray[np.bool_]) -> IntArray:
        """Return how many of each client's neighbours, and itself, are chosen: int64 [n].

        Args:
            chosen: bool [n].
        """
        return np.asarray(chosen[self.rows(self.closed)].sum(1, dtype=np.int64))


def graph_of(session: Session, clients: IntArray, degree: int) -> Graph:
    """Return a random graph in which each client has as many neighbours.

    Clients stand in a circle in an order that the session decides; neighbours are the nearest on
    either side.

    Args:
        session: The same session gives the same graph.
        clients: int64 [n], sorted, each once.
        degree: Number of neighbours; where it is odd, one more. All others, where there are fewer.

    Reference: bell2020secure.
    """
    digest, n = session.digest(), len(clients)
    drawn = [hashlib.sha256(bound(digest, "circle", each)).digest() for each in clients.tolist()]
    circle = np.array(sorted(range(n), key=drawn.__getitem__), np.int64)
    near = np.arange(shares_of(n, degree)) - math.ceil(degree / 2)
    closed = np.empty((n, len(near)), np.int64)
    closed[circle] = np.sort(clients[circle[(np.arange(n)[:, None] + near) % n]], axis=1)
    return Graph(clients, closed)
