"""A job takes what its parts take, and pauses while its device is offline."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.compute.context import RoundContext
from fedrec.devices import Devices
from fedrec.devices.availability import DAY, TICKS, Availability
from fedrec.devices.fleet import Fleet
from fedrec.errors import ConfigError
from tests.fleets import equal_fleet, fleets, intervals_of, works


def test_a_job_that_pauses_goes_on_where_it_was() -> None:
    """2 s of download, 2.5 s of training and 1 s of upload, online for 2 of every 5 seconds."""
    online = intervals_of([(5 * TICKS, [(TICKS, 3 * TICKS)])])
    fleet = Fleet(np.array([0.25]), np.array([10.0]), np.array([4.0]), online)
    client, one = np.zeros(1, np.int64), np.ones(1, np.int64)
    # Online from 1 to 3, 6 to 8, 11 to 13.
    assert fleet.arrivals(client, 0.0, 10 * one, 20 * one, 4 * one) == 12.5
    assert fleet.arrivals(client, 2.0, 10 * one, 20 * one, 4 * one) == 16.5
    assert fleet.arrivals(client, 2.0, 0 * one, 0 * one, 4 * one) == 3.0
    assert fleet.online(client, 2.0)
    assert not fleet.online(client, 3.0)
    assert fleet.next_online(client, 3.0) == 6.0


@given(data=st.data(), fleet=fleets(), start=st.integers(0, 40 * TICKS))
def test_replies_arrive_after_they_are_asked_for_on_the_grid(
    data: st.DataObject, fleet: Fleet, start: int
) -> None:
    clients, time = np.arange(len(fleet)), start / TICKS
    work = data.draw(works(len(fleet))).of(clients)
    arrivals = fleet.arrivals(clients, time, *work)
    assert (arrivals > fleet.next_online(clients, time)).all()
    assert np.array_equal(arrivals * TICKS, np.rint(arrivals * TICKS))
    chosen = np.array(data.draw(st.permutations(range(len(fleet)))), np.int64)
    alone = [fleet.arrivals(clients[[c]], time, *(w[[c]] for w in work)) for c in chosen]
    assert np.array_equal(np.concatenate(alone), arrivals[chosen])
    slower = replace(fleet, seconds_per_example=fleet.seconds_per_example * 2)
    assert (slower.arrivals(clients, time, *work) >= arrivals).all()
    later = fleet.arrivals(clients, time + 0.5, *work)
    assert (later >= arrivals).all()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("seconds_per_example", -1.0, "its seconds_per_example is -1, expected above 0"),
        ("seconds_per_example", 0.0, "its seconds_per_example is 0, expected above 0"),
        ("seconds_per_example", np.nan, "its seconds_per_example is nan"),
        ("download", 0.5, "its download is 0.5, expected 1 or more, 1e\\+15 at most"),
        ("upload", np.inf, "its upload is inf"),
    ],
)
def test_speeds_out_of_range_are_refused(name: str, value: float, said: str) -> None:
    speeds = np.array([1.0, value, 2.0])
    with pytest.raises(ConfigError, match=f"the device of client 1: {said}"):
        replace(equal_fleet(3), **{name: speeds})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"upload": np.ones(2)}, r"upload of float64 \[2\], expected float64 \[3\]"),
        ({"upload": np.ones(3, np.float32)}, r"upload of float32 \[3\]"),
        ({"availability": Availability.always(2)}, "3 devices has 2 periods"),
        ({"availability": intervals_of([(9, [(0, 9)]), (9, []), (9, [(1, 2)])])}, "never online"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(equal_fleet(3), **change)


def test_the_hash_knows_every_value() -> None:
    fleet = equal_fleet(3)
    others = [
        equal_fleet(4),
        replace(fleet, upload=np.full(3, 65.0)),
        replace(fleet, availability=intervals_of([(DAY * TICKS, [(0, 5)])] * 3)),
    ]
    hashes = [each.hash for each in (fleet, *others)]
    assert len({*hashes}) == len(hashes)
    assert equal_fleet(3).hash == fleet.hash


class TooFew(Devices):
    def fleet(self, context: RoundContext) -> Fleet:
        return equal_fleet(2)


class Nothing(Devices):
    def fleet(self, context: RoundContext) -> Fleet:
        return None  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("devices", "said"),
    [(TooFew(), "TooFew: fleet returned 2 devices, expected a Fleet of 3"), (Nothing(), "None")],
)
def test_a_fleet_has_a_device_for_each_client(devices: Devices, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        devices.checked_fleet(RoundContext(0, 0, 3, 5))
