"""Small fleets for tests, drawn at random."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from fedrec.devices.availability import TICKS, Availability
from fedrec.devices.fleet import Fleet
from fedrec.devices.work import Work
from fedrec.ragged import offsets_of

__all__ = ["availabilities", "equal_fleet", "fleets", "intervals_of", "works"]

Intervals = Sequence[tuple[int, int]]


def intervals_of(rows: Sequence[tuple[int, Intervals]]) -> Availability:
    """Devices, each with a period and intervals in ticks."""
    return Availability(
        np.array([period for period, _ in rows], np.int64),
        offsets_of(np.array([len(intervals) for _, intervals in rows], np.int64)),
        np.array([start for _, row in rows for start, _ in row], np.int64),
        np.array([end for _, row in rows for _, end in row], np.int64),
    )


@st.composite
def availabilities(draw: st.DrawFn, n: int, scale: int = 1) -> Availability:
    """Devices with periods of a few ticks, times ``scale``."""
    rows = []
    for _ in range(n):
        period = draw(st.integers(1, 12))
        is_online = draw(st.lists(st.booleans(), min_size=period, max_size=period))
        is_online[draw(st.integers(0, period - 1))] = True
        # Intervals of one tick each also stand side by side.
        joined = draw(st.booleans())
        intervals: list[tuple[int, int]] = []
        for at in np.flatnonzero(is_online).tolist():
            if joined and intervals and intervals[-1][1] == at * scale:
                intervals[-1] = (intervals[-1][0], (at + 1) * scale)
            else:
                intervals.append((at * scale, (at + 1) * scale))
        rows.append((period * scale, intervals))
    return intervals_of(rows)


@st.composite
def fleets(draw: st.DrawFn, least: int = 1, most: int = 8) -> Fleet:
    """Fleets of few speeds, so that replies often arrive at the same time."""
    n = draw(st.integers(least, most))
    seconds, rates = st.sampled_from([0.001, 0.25, 0.3, 2.0]), st.sampled_from([1.0, 64.0, 1e6])

    def column(values: st.SearchStrategy[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array(draw(st.lists(values, min_size=n, max_size=n)), np.float64)

    always = draw(st.booleans())
    online = Availability.always(n) if always else draw(availabilities(n, scale=TICKS))
    return Fleet(column(seconds), column(rates), column(rates), online)


def equal_fleet(n: int) -> Fleet:
    """Devices that are equally fast and always online."""
    ones = np.ones(n)
    return Fleet(0.25 * ones, 64 * ones, 64 * ones, Availability.always(n))


@st.composite
def works(draw: st.DrawFn, n: int) -> Work:
    """What jobs of n clients take."""
    some = st.lists(st.integers(0, 5), min_size=n, max_size=n)
    return Work(*(np.array(draw(some), np.int64) for _ in range(3)))
