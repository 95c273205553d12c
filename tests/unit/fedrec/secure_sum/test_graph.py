import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.errors import ConfigError
from fedrec.secure_sum.graph import Graph, degree_of, graph_of, shares_of, threshold_of
from fedrec.secure_sum.session import Session
from fedrec.types import IntArray

SESSION = Session("a", 1)


def some_clients(n: int) -> IntArray:
    return 3 * np.arange(n, dtype=np.int64) + 5


def reached(graph: Graph, left: set[int]) -> set[int]:
    """Return which of some clients can be reached from the first of them."""
    near = dict(zip(graph.clients.tolist(), graph.closed.tolist(), strict=True))
    seen, ahead = set[int](), [min(left)]
    while ahead:
        client = ahead.pop()
        if client not in seen:
            seen.add(client)
            ahead += {*near[client]} & left
    return seen


@given(st.integers(1, 60), st.integers(1, 30))
def test_everybody_has_as_many_neighbours_each_of_the_other(n: int, degree: int) -> None:
    graph = graph_of(SESSION, some_clients(n), degree)
    assert graph.closed.shape == (n, shares_of(n, degree))
    near = {k: {*row} for k, row in zip(graph.clients.tolist(), graph.closed.tolist(), strict=True)}
    assert all(len(near[k]) == graph.closed.shape[1] and k in near[k] for k in near)
    assert all(k in near[other] for k in near for other in near[k])
    assert all((np.diff(row) > 0).all() for row in graph.closed)


@given(st.integers(3, 40), st.integers(1, 8), st.integers(0, 2**31))
def test_it_stays_connected_if_fewer_drop_out_than_one_has_neighbours(
    n: int, beside: int, seed: int
) -> None:
    graph = graph_of(SESSION, some_clients(n), 2 * beside)
    lost = min(2 * beside, n - 1) - 1
    left = {*np.random.default_rng(seed).permutation(graph.clients)[lost:].tolist()}
    assert reached(graph, left) == left


def test_it_depends_on_the_session() -> None:
    graphs = [
        graph_of(session, some_clients(50), 6).closed
        for session in (SESSION, Session("a", 1), Session("a", 2), Session("b", 1))
    ]
    assert np.array_equal(graphs[0], graphs[1])
    assert not any(np.array_equal(graphs[0], other) for other in graphs[2:])


def test_places_and_counts() -> None:
    graph = graph_of(SESSION, some_clients(20), 4)
    rows, others = np.divmod(np.arange(400), 20)
    places = graph.places(rows, graph.clients[others])
    for row, other, place in zip(rows, graph.clients[others], places, strict=True):
        expected = np.flatnonzero(graph.closed[row] == other)
        assert place == (expected[0] if len(expected) else -1)
    chosen = np.arange(20) % 3 == 0
    assert graph.counts(chosen).tolist() == [
        len({*row} & {*graph.clients[chosen]}) for row in graph.closed
    ]


def test_small_rounds_are_complete_and_large_ones_are_not() -> None:
    assert [degree_of(n) for n in (2, 3, 6, 18, 100, 1000, 10000)] == [1, 2, 5, 17, 28, 40, 54]


@given(st.integers(2, 2000), st.floats(0.5, 0.999))
def test_a_threshold_cannot_be_reached_twice(n: int, fraction: float) -> None:
    threshold = threshold_of(n, fraction)
    assert n < 2 * threshold
    assert threshold <= n


@pytest.mark.parametrize("fraction", [0.0, 0.49, 1.0])
def test_other_fractions_are_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="expected"):
        threshold_of(10, fraction)
