"""Secure sums of some clients in one process, as a server and its nodes run them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.aggregation.reduce import Summing, merge, reduce_sums
from fedrec.aggregation.update import Aggregate, RowBlock, UpdateBatch
from fedrec.ragged import offsets_of
from fedrec.secure_sum import client, server
from fedrec.secure_sum.client import Masking, Secrets, Shared
from fedrec.secure_sum.messages import MaskedSum
from fedrec.secure_sum.session import Session
from fedrec.secure_sum.vector import VectorLayout
from fedrec.types import IntArray

SESSION = Session("a run", 3)
SHAPES: Mapping[str, tuple[int, ...]] = {
    "item": (9, 3),
    "bias": (9,),
    "item/control": (9, 3),
    "head": (4, 2),
    "constant": (),
}
"""Three tables, of which two have the same rows, and two dense parameters."""


def ints(values: Collection[int]) -> IntArray:
    return np.array(sorted(values), np.int64)


def updates(n: int, seed: int = 0) -> UpdateBatch:
    """Return updates of clients 0 to n - 1; some touch no row."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 6, n)
    ids = [np.sort(rng.choice(9, length, replace=False)) for length in lengths]
    rows = np.concatenate([np.zeros(0, np.int64), *ids]).astype(np.int64)

    def block(*shape: int) -> RowBlock:
        values = rng.standard_normal((len(rows), *shape)).astype(np.float32)
        return RowBlock(offsets_of(lengths), rows, values)

    return UpdateBatch(
        3,
        np.arange(n),
        rng.integers(1, 50, n).astype(np.float64),
        {"item": block(3), "bias": block(), "item/control": block(3)},
        {
            "head": rng.standard_normal((n, 4, 2)).astype(np.float32),
            "constant": rng.standard_normal(n).astype(np.float32),
        },
        {"loss": rng.random(n), "examples": rng.integers(1, 9, n).astype(np.float64)},
        {"steps": rng.standard_normal(n)},
    )


def sums_of(batch: UpdateBatch) -> list[Aggregate]:
    """Return the sum of each client alone."""
    n = len(batch.client_ids)
    return [reduce_sums(batch.take(np.array([k])), Summing("examples")) for k in range(n)]


def plain_sum(sums: Sequence[Aggregate], clients: Collection[int]) -> Aggregate:
    return reduce(merge, [sums[each] for each in clients])


def layout_of(sums: Sequence[Aggregate]) -> VectorLayout:
    return VectorLayout.of(sums[0], SHAPES)


def assert_same(a: Any, b: Any) -> None:
    """Compare two values field by field, with the types."""
    assert type(a) is type(b)
    if isinstance(a, Aggregate):
        for each in fields(Aggregate):
            assert_same(getattr(a, each.name), getattr(b, each.name))
    elif isinstance(a, Mapping):
        assert a.keys() == b.keys()
        for name in a:
            assert_same(a[name], b[name])
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.array_equal(a, b)
    else:
        assert a == b


@dataclass
class Nodes:
    """The clients' side: what each node keeps, and all that travels.

    Args:
        clients: of each node.
        session: the session.
        sent: every message, in both directions.
    """

    clients: Sequence[Collection[int]]
    session: Session = SESSION
    sent: list[Any] = field(default_factory=list)
    secrets: dict[int, Secrets] = field(default_factory=dict)
    shared: dict[int, Shared] = field(default_factory=dict)
    masking: dict[int, Masking] = field(default_factory=dict)

    def left(self, alive: Collection[int]) -> list[tuple[int, IntArray]]:
        """Return the nodes that have some of the clients, with these."""
        of_nodes = [
            (number, ints({*hosted} & {*alive})) for number, hosted in enumerate(self.clients)
        ]
        return [(number, some) for number, some in of_nodes if len(some)]

    def advertise(self, alive: Collection[int]) -> list[Any]:
        replies = []
        for number, some in self.left(alive):
            self.secrets[number], reply = client.advertise(self.session, some)
            replies.append(reply)
        return self._sent(replies)

    def share(self, keys: server.CollectedKeys, alive: Collection[int]) -> list[Any]:
        replies = []
        for number, some in self.left({*keys.graph.clients.tolist()} & {*alive}):
            request = self._sent([keys.request(some)])[0]
            self.shared[number], reply = client.share(self.secrets[number], request)
            replies.append(reply)
        return self._sent(replies)

    def mask(
        self,
        shares: server.CollectedShares,
        alive: Collection[int],
        sums: Sequence[Aggregate],
        cohort: int,
    ) -> list[Any]:
        """Return the masked sums of the clients that are alive, of a node in one vector."""
        replies: list[MaskedSum] = []
        for number, hosted in self.left(shares.clients.tolist()):
            request = self._sent([shares.request(hosted)])[0]
            self.masking[number] = client.receive(self.shared[number], request)
        for number, some in self.left({*shares.clients.tolist()} & {*alive}):
            of_node = plain_sum(sums, some.tolist())
            vector = layout_of(sums).pack(of_node, cohort)
            self.masking[number], reply = client.mask(self.masking[number], some, vector)
            replies.append(reply)
        return self._sent(replies)

    def reveal(self, collected: server.CollectedSums, alive: Collection[int]) -> list[Any]:
        replies = []
        for number, some in self.left({*collected.clients.tolist()} & {*alive}):
            request = self._sent([collected.request(some)])[0]
            self.masking[number], reply = client.reveal(self.masking[number], request)
            replies.append(reply)
        return self._sent(replies)

    def _sent(self, messages: list[Any]) -> list[Any]:
        self.sent += messages
        return messages


def secure_words(
    nodes: Nodes,
    sums: Sequence[Aggregate],
    alive: Sequence[Collection[int]],
    degree: int | None = None,
    fraction: float = 0.5,
) -> tuple[IntArray, NDArray[np.uint64]]:
    """Run all steps; return the clients that are in the sum, and the sum as a vector.

    Args:
        nodes: The clients.
        sums: Of each client.
        alive: For each of the four steps, the clients that answer.
        degree: As for `collect_keys`.
        fraction: Likewise.
    """
    cohort = ints([each for hosted in nodes.clients for each in hosted])
    keys = server.collect_keys(
        nodes.session, cohort, nodes.advertise(alive[0]), fraction=fraction, degree=degree
    )
    shares = server.collect_shares(keys, nodes.share(keys, alive[1]))
    collected = server.collect_sums(shares, nodes.mask(shares, alive[2], sums, len(cohort)))
    return collected.clients, server.unmasked(collected, nodes.reveal(collected, alive[3]))
