"""Who hosts whom: everybody once, nobody idle, shares as equal as whole clients allow."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clients.placement import hosted_clients


@given(st.lists(st.floats(0.1, 100.0), min_size=1, max_size=40), st.data())
def test_nodes_share_the_clients(costs: list[float], data: st.DataObject) -> None:
    """A partition into consecutive, non-empty parts; no part exceeds its share by a client."""
    nodes = data.draw(st.integers(1, len(costs)))
    parts = [hosted_clients(np.array(costs), node, nodes) for node in range(nodes)]
    assert np.array_equal(np.concatenate(parts), np.arange(len(costs)))
    assert all(len(part) for part in parts)
    share, largest = sum(costs) / nodes, max(costs)
    if largest <= share:
        assert max(sum(np.array(costs)[part]) for part in parts) <= share + largest + 1e-9


def test_equal_clients_are_dealt_evenly() -> None:
    """Ten equal clients on three nodes: 3, 4 and 3 (a client belongs where its middle falls)."""
    sizes = [len(hosted_clients(np.ones(10), node, 3)) for node in range(3)]
    assert sizes == [3, 4, 3]


def test_a_heavy_client_is_alone() -> None:
    """Costs 9, 1, 1, 1 on two nodes: the heavy one against the three light ones."""
    costs = np.array([9.0, 1.0, 1.0, 1.0])
    assert [hosted_clients(costs, node, 2).tolist() for node in range(2)] == [[0], [1, 2, 3]]
