"""Times online are those of a watch that looks at every tick."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.devices.availability import (
    DAY,
    TICKS,
    Availability,
    seconds_of,
    ticks_of,
)
from fedrec.errors import NumericError
from tests.fleets import availabilities, intervals_of


def is_online(availability: Availability, device: int, tick: int) -> bool:
    within = tick % int(availability.periods[device])
    rows = slice(*availability.offsets[device : device + 2])
    ends = zip(availability.starts[rows], availability.ends[rows], strict=True)
    return any(start <= within < end for start, end in ends)


def watched(availability: Availability, device: int, tick: int, online: int) -> int:
    """Count ticks one by one until the device was online for as many as are asked for."""
    while online:
        online -= is_online(availability, device, tick)
        tick += 1
    return tick


@given(data=st.data(), n=st.integers(1, 4))
def test_time_offline_does_not_count(data: st.DataObject, n: int) -> None:
    availability = data.draw(availabilities(n))
    devices = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=6)), np.int64)
    many = st.lists(st.integers(0, 60), min_size=len(devices), max_size=len(devices))
    at, online = np.array(data.draw(many), np.int64), np.array(data.draw(many), np.int64) + 1
    after = availability.after(devices, at, online)
    each = zip(devices.tolist(), at.tolist(), online.tolist(), strict=True)
    assert after.tolist() == [watched(availability, *one) for one in each]
    assert availability.is_online(devices, at).tolist() == [
        is_online(availability, *one) for one in zip(devices.tolist(), at.tolist(), strict=True)
    ]
    begins = availability.next_online(devices, at)
    assert availability.is_online(devices, begins).all()
    assert (begins >= at).all()


@given(data=st.data(), online=st.integers(1, 50), more=st.integers(1, 50), at=st.integers(0, 99))
def test_a_job_may_be_cut_in_two(data: st.DataObject, online: int, more: int, at: int) -> None:
    """Online for a + b is online for a, and from then on for b."""
    availability, one = data.draw(availabilities(1)), np.zeros(1, np.int64)
    first = availability.after(one, one + at, one + online)
    second = availability.after(one, first, one + more)
    assert second == availability.after(one, one + at, one + online + more)


def test_who_is_always_online_waits_for_nothing() -> None:
    devices, at = np.arange(3), np.array([0, 5, 3 * DAY * TICKS + 7])
    after = Availability.always(3).after(devices, at, np.array([1, 2 * DAY * TICKS, 9]))
    assert after.tolist() == [1, 5 + 2 * DAY * TICKS, 3 * DAY * TICKS + 16]


@pytest.mark.parametrize(
    ("period", "intervals", "said"),
    [
        (0, [(0, 1)], "its period is not above 0"),
        (9, [], "it is never online; leave it out"),
        (9, [(-1, 2)], "from -0.000976562 to 0.00195312 s begins before its period"),
        (9, [(2, 2)], "is empty"),
        (9, [(0, 1), (8, 10)], "ends after its period"),
        (9, [(0, 5), (4, 6)], "is not over when the next begins"),
        (9, [(4, 6), (0, 2)], "is not over when the next begins"),
    ],
)
def test_wrong_intervals_are_named(
    period: int, intervals: list[tuple[int, int]], said: str
) -> None:
    fault = intervals_of([(9, [(0, 4), (4, 9)]), (period, intervals), (9, [(1, 2)])]).fault()
    assert fault is not None
    assert fault[0] == 1
    assert said in fault[1]


@given(st.integers(0, 2**52 - 1))
def test_ticks_are_exact_as_seconds(ticks: int) -> None:
    assert ticks_of(seconds_of(np.array(ticks))) == ticks


@pytest.mark.parametrize("seconds", [2.0**42, np.inf, np.nan])
def test_the_clock_says_where_it_ends(seconds: float) -> None:
    with pytest.raises(NumericError, match=r"more than 4398046511104; .* rounds\.devices"):
        ticks_of(seconds)
    year = intervals_of([(2**35, [(0, 1)])])
    with pytest.raises(NumericError, match="virtual seconds"):
        year.after(np.zeros(1, np.int64), np.zeros(1, np.int64), np.full(1, 2**40))
