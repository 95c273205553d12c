"""Who is in time is in the round, and the rest are stragglers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.devices.deadlines import end_of_round
from fedrec.errors import ConfigError

CLIENTS = np.array([2, 5, 7, 9])
ARRIVALS = np.array([14.0, 11.0, 14.0, 30.0])


@pytest.mark.parametrize(
    ("options", "end", "replied"),
    [
        ({}, 30.0, [2, 5, 7, 9]),
        ({"wanted": 1}, 11.0, [5]),
        ({"wanted": 2}, 14.0, [2, 5]),
        ({"wanted": 3}, 14.0, [2, 5, 7]),
        ({"deadline": 1.5}, 11.5, [5]),
        ({"deadline": 4.0}, 14.0, [2, 5, 7]),
        ({"deadline": 6.0, "wanted": 3}, 14.0, [2, 5, 7]),
        ({"deadline": 6.0}, 16.0, [2, 5, 7]),
        ({"deadline": 0.5}, 11.0, [5]),
        ({"deadline": 0.5, "quorum": 2}, 14.0, [2, 5, 7]),
        ({"deadline": 0.5, "quorum": 4}, 30.0, [2, 5, 7, 9]),
        ({"deadline": 99.0}, 30.0, [2, 5, 7, 9]),
    ],
)
def test_a_round_ends_with_those_in_time(
    options: dict[str, float], end: float, replied: list[int]
) -> None:
    ended = end_of_round(CLIENTS, ARRIVALS, 10.0, **options)  # type: ignore[arg-type]
    assert ended.time == end
    assert ended.replied.tolist() == replied
    assert ended.stragglers.tolist() == [c for c in CLIENTS.tolist() if c not in replied]


@given(data=st.data(), n=st.integers(1, 8))
def test_no_choice_of_deadlines_loses_or_invents_a_client(data: st.DataObject, n: int) -> None:
    clients = np.array(data.draw(st.permutations(range(n))), np.int64)
    ticks = st.lists(st.integers(1, 9), min_size=n, max_size=n)
    arrivals = 3.0 + np.array(data.draw(ticks), np.float64)
    wanted = data.draw(st.integers(1, n))
    quorum = data.draw(st.integers(1, wanted))
    deadline = data.draw(st.none() | st.integers(0, 12).map(float))
    ended = end_of_round(clients, arrivals, 3.0, wanted, deadline, quorum)
    assert sorted([*ended.replied, *ended.stragglers]) == list(range(n))
    assert quorum <= len(ended.replied) <= wanted
    of_client = dict(zip(clients.tolist(), arrivals.tolist(), strict=True))
    last = max((of_client[c], c) for c in ended.replied.tolist())
    assert last[0] <= ended.time
    if len(ended.replied) < wanted:
        assert all(of_client[c] > ended.time for c in ended.stragglers.tolist())
    assert all((of_client[c], c) > last for c in ended.stragglers.tolist())
    if deadline is not None and len(ended.replied) > quorum:
        assert ended.time <= max(3.0 + deadline, last[0])
    order = np.array(data.draw(st.permutations(range(n))), np.int64)
    other = end_of_round(clients[order], arrivals[order], 3.0, wanted, deadline, quorum)
    assert other.time == ended.time
    assert np.array_equal(other.replied, ended.replied)


def test_nobody_is_a_round_that_takes_no_time() -> None:
    nobody = np.zeros(0, np.int64)
    assert end_of_round(nobody, np.zeros(0), 4.0).time == 4.0


@pytest.mark.parametrize("options", [{"wanted": 5}, {"wanted": 0}, {"quorum": 3, "wanted": 2}])
def test_numbers_that_do_not_fit_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected a quorum from 1, and no more replies"):
        end_of_round(CLIENTS, ARRIVALS, 10.0, **options)
