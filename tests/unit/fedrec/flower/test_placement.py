"""Nodes go to workers by the speed that these have shown."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fedrec.flower.placement import EXCHANGES, LEAST_GAIN, Placement, placed_by_speed

speeds = st.lists(st.floats(0.1, 10.0), min_size=1, max_size=5)


def slowest(workers: list[int], seconds: list[float]) -> float:
    """How long the last worker works, if its nodes take what they say."""
    return max(sum(s for w, s in zip(workers, seconds, strict=True) if w == k) for k in {*workers})


@given(speeds, st.integers(1, 6), st.data())
def test_the_slowest_worker_gains_or_nothing_changes(
    each: list[float], n_each: int, data: st.DataObject
) -> None:
    """In seconds per node, from any placement in which each worker has a node."""
    n = len(each)
    more = data.draw(st.lists(st.integers(0, n - 1), max_size=n * n_each))
    before = [*range(n), *more]
    after = placed_by_speed(before, [each[worker] for worker in before])
    assert {*after} == {*before}
    if after != before:
        times = [slowest(placed, [each[worker] for worker in placed]) for placed in (before, after)]
        assert times[1] <= times[0] * (1 - LEAST_GAIN)
        rate = sum(1 / seconds for seconds in each)
        assert times[1] <= len(after) / rate + max(each)


def test_a_worker_that_is_three_times_as_fast_gets_three_times_as_many() -> None:
    placement = Placement(8, 2)
    before = [placement.worker(node) for node in range(1, 9)]
    assert before == [0, 1] * 4
    for _ in range(EXCHANGES):
        placement.measure({})  # no training
        placement.measure({node: 1.0 if placement.worker(node) else 3.0 for node in range(1, 9)})
    after = [placement.worker(node) for node in range(1, 9)]
    assert Counter(after) == {0: 2, 1: 6}
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 2
    for _ in range(3 * EXCHANGES):
        placement.measure({node: 1.0 if placement.worker(node) else 3.0 for node in range(1, 9)})
    assert [placement.worker(node) for node in range(1, 9)] == after


def test_noise_and_one_node_for_each_worker_change_nothing() -> None:
    even, alone = Placement(6, 2), Placement(2, 2)
    for _ in range(EXCHANGES):
        even.measure({node: 1.0 + 0.1 * (node % 2) for node in range(1, 7)})
        alone.measure({1: 1.0, 2: 50.0})
    assert [even.worker(node) for node in range(1, 7)] == [0, 1] * 3
    assert [alone.worker(node) for node in (1, 2)] == [0, 1]
