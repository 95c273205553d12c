"""Made devices have the medians and the day that their options say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.compute.context import RoundContext
from fedrec.devices import SyntheticDevices
from fedrec.devices.availability import DAY, TICKS

N = 4000
EVERYBODY = np.arange(N)


def context(n: int = N, seed: int = 0) -> RoundContext:
    return RoundContext(seed, 0, n, 10)


def test_medians_and_spreads_are_as_said() -> None:
    devices = SyntheticDevices(spread=0.5, network_spread=0.8)
    fleet = devices.checked_fleet(context())
    for name, spread in (("seconds_per_example", 0.5), ("download", 0.8), ("upload", 0.8)):
        logs = np.log(getattr(fleet, name))
        # Four standard errors of the median and of the standard deviation of normal numbers.
        assert abs(np.median(logs) - np.log(getattr(devices, name))) < 4 * 1.26 * spread / N**0.5
        assert abs(logs.std() / spread - 1) < 4 / (2 * N) ** 0.5
    assert np.corrcoef(np.log(fleet.download), np.log(fleet.upload))[0, 1] > 0.999


@pytest.mark.parametrize(("contrast", "ratio"), [(0.0, 1.0), (1.0, 4.0)])
def test_more_devices_are_online_at_the_peak(contrast: float, ratio: float) -> None:
    devices = SyntheticDevices(contrast=contrast)
    fleet = devices.checked_fleet(context())
    at_peak, opposite = (fleet.online(EVERYBODY, hour * 3600.0).sum() for hour in (2, 14))
    assert at_peak / opposite == pytest.approx(ratio, rel=0.15)
    daily = [fleet.online(EVERYBODY, hour * 3600.0 + 1800).mean() for hour in range(24)]
    assert np.mean(daily) == pytest.approx(8 * np.exp(0.3**2 / 2) / 24, rel=0.03)


def test_24_hours_are_always() -> None:
    fleet = SyntheticDevices(online_hours=24, online_spread=0).checked_fleet(context(9))
    assert (fleet.availability.ends - fleet.availability.starts == DAY * TICKS).all()


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**40),
    n=st.integers(1, 40),
    spreads=st.tuples(*[st.floats(0, 5)] * 3),
    hours=st.floats(0.01, 24),
    peak=st.floats(0, 23.9),
    contrast=st.floats(0, 1),
)
def test_a_client_has_the_same_device_whoever_else_takes_part(
    seed: int,
    n: int,
    spreads: tuple[float, float, float],
    hours: float,
    peak: float,
    contrast: float,
) -> None:
    names = ("spread", "network_spread", "online_spread")
    options = dict(zip(names, spreads, strict=True))
    devices = SyntheticDevices(online_hours=hours, peak=peak, contrast=contrast, **options)
    few, many = (devices.checked_fleet(context(size, seed)) for size in (n, n + 7))
    clients, one = np.arange(n), np.ones(n, np.int64)
    ours, theirs = (each.arrivals(clients, 5.0, one, one, one) for each in (few, many))
    assert np.array_equal(ours, theirs)
    assert devices.checked_fleet(context(n, seed)).hash == few.hash
