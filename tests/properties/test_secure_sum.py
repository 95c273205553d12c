"""A secure sum is the plain sum bit for bit, whoever drops out; beyond the threshold none."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import TooFewClients
from fedrec.secure_sum import client, server
from fedrec.secure_sum.graph import degree_of, graph_of, shares_of, threshold_of
from tests.secure_sums import (
    SESSION,
    Nodes,
    assert_same,
    ints,
    layout_of,
    plain_sum,
    secure_words,
    sums_of,
    updates,
)

STEPS = 4


def subsets(of: frozenset[int]) -> Iterator[frozenset[int]]:
    for n in range(len(of) + 1):
        yield from map(frozenset, combinations(sorted(of), n))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_all_ways_of_dropping_out(n: int) -> None:
    """Each client answers all steps, or drops out before one of them: 5**n patterns.

    Patterns that begin alike share these steps: what clients keep is not changed by a step.
    """
    sums, everybody = sums_of(updates(n)), frozenset(range(n))
    threshold, counts = n // 2 + 1, {"equal": 0, "refused": 0}
    vectors = [layout_of(sums).pack(each, n) for each in sums]

    def refused(alive: frozenset[int], steps: int) -> bool:
        """Count the patterns that go on from here, if fewer are left than the threshold."""
        if len(alive) < threshold:
            counts["refused"] += (steps + 1) ** len(alive)
        return len(alive) < threshold

    secrets, public = zip(*(client.advertise(SESSION, ints([k])) for k in everybody), strict=True)
    for first in subsets(everybody):
        replies = [public[k] for k in first]
        if refused(first, 3):
            with pytest.raises(TooFewClients, match="have sent keys"):
                server.collect_keys(SESSION, ints(everybody), replies)
            continue
        keys = server.collect_keys(SESSION, ints(everybody), replies)
        shared = {k: client.share(secrets[k], keys.request(ints([k]))) for k in first}
        for second in subsets(first):
            if refused(second, 2):
                with pytest.raises(TooFewClients, match="shared"):
                    server.collect_shares(keys, [shared[k][1] for k in second])
                continue
            shares = server.collect_shares(keys, [shared[k][1] for k in second])
            masked = {
                k: client.mask(
                    client.receive(shared[k][0], shares.request(ints([k]))), ints([k]), vectors[k]
                )
                for k in second
            }
            for third in subsets(second):
                if refused(third, 1):
                    with pytest.raises(TooFewClients, match="vector"):
                        server.collect_sums(shares, [masked[k][1] for k in third])
                    continue
                collected = server.collect_sums(shares, [masked[k][1] for k in third])
                revealed = {
                    k: client.reveal(masked[k][0], collected.request(ints([k])))[1] for k in third
                }
                for fourth in subsets(third):
                    if refused(fourth, 0):
                        with pytest.raises(TooFewClients, match="revealed"):
                            server.unmasked(collected, [revealed[k] for k in fourth])
                        continue
                    words = server.unmasked(collected, [revealed[k] for k in fourth])
                    assert_same(layout_of(sums).unpack(words), plain_sum(sums, third))
                    counts["equal"] += 1
    assert counts["equal"] + counts["refused"] == 5**n
    assert counts["equal"] > 0


def is_enough(alive: list[frozenset[int]], n: int, degree: int | None, fraction: float) -> bool:
    """Return whether enough neighbours of each client are left at each step."""
    degree = degree_of(n) if degree is None else degree
    threshold = threshold_of(shares_of(n, degree), fraction)
    if len(alive[0]) < threshold:
        return False
    graph = graph_of(SESSION, ints(alive[0]), degree)
    near = {k: {*row} for k, row in zip(graph.clients.tolist(), graph.closed.tolist(), strict=True)}
    shared, sent, revealed = alive[1:]
    in_sum = sent | {k for k in shared if near[k] & sent}
    return (
        all(len(near[k] & shared) >= threshold for k in shared)
        and all(len(near[k] & sent) >= threshold for k in in_sum)
        and all(len(near[k] & revealed) >= threshold for k in in_sum)
        and len(revealed) > 0
    )


@st.composite
def patterns(draw: st.DrawFn, n: int) -> list[frozenset[int]]:
    """Draw who answers each step; half of the time few drop out."""
    rate = draw(st.sampled_from([0.0, 0.02, 0.05, 0.1, 0.3]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    alive, steps = frozenset(range(n)), []
    for _ in range(STEPS):
        alive = frozenset(k for k in alive if rng.random() >= rate)
        steps.append(alive)
    return steps


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_ways_of_dropping_out(data: st.DataObject) -> None:
    """More clients, random regular graphs, several clients on a node, which is there or is not."""
    n = data.draw(st.integers(7, 40), "clients")
    degree = data.draw(st.none() | st.integers(2, 10), "degree")
    fraction = data.draw(st.sampled_from([0.5, 0.6, 2 / 3]), "fraction")
    alive = data.draw(patterns(n), "who answers each step")
    sums = sums_of(updates(n, data.draw(st.integers(0, 99), "seed")))
    hosts = np.array(data.draw(st.lists(st.integers(0, n), min_size=n, max_size=n), "nodes"))
    nodes = Nodes([np.flatnonzero(hosts == node).tolist() for node in range(n + 1)])
    if not is_enough(alive, n, degree, fraction):
        with pytest.raises(TooFewClients):
            secure_words(nodes, sums, alive, degree, fraction)
        return
    clients, words = secure_words(nodes, sums, alive, degree, fraction)
    assert clients.tolist() == sorted(alive[2])
    assert_same(layout_of(sums).unpack(words), plain_sum(sums, alive[2]))


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(12)), st.integers(1, 12))
def test_the_order_of_clients_and_their_nodes_change_nothing(order: list[int], n: int) -> None:
    sums, everybody = sums_of(updates(12)), range(12)
    nodes = Nodes([order[start::n] for start in range(n)])
    alive = [everybody, everybody, {*everybody} - {5}, {*everybody} - {5}]
    clients, words = secure_words(nodes, sums, alive, degree=6)
    assert clients.tolist() == [each for each in everybody if each != 5]
    assert_same(layout_of(sums).unpack(words), plain_sum(sums, clients.tolist()))
