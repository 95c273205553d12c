"""When devices are online: intervals that repeat, in exact arithmetic.

Virtual time is counted in ticks of 2**-10 s. So sums of times are exact, also as seconds in
float64, two clients may reply at the same time, and every machine computes the same times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import NumericError
from fedrec.ragged import Ragged, offsets_of
from fedrec.types import FloatArray, IntArray

TICKS = 2**10
"""Of a virtual second."""

DAY = 86_400
"""Seconds."""

_LATEST = 2**52
"""Ticks, 139,000 years: later times are no exact seconds in float64."""


def ticks_of(seconds: FloatArray | float) -> IntArray:
    """Return virtual seconds as ticks, int64; those between two ticks are rounded up.

    Raises:
        NumericError: If a time is later than the clock can tell.
    """
    ticks = np.ceil(np.asarray(seconds, np.float64) * TICKS)
    _check_latest(ticks)
    return ticks.astype(np.int64)


def seconds_of(ticks: IntArray) -> FloatArray:
    """Return ticks as virtual seconds, float64, exactly."""
    return np.asarray(ticks / TICKS, np.float64)


def _check_latest(ticks: FloatArray) -> None:
    if not (ticks < _LATEST).all():
        raise NumericError(
            f"a client's reply would take {float(np.max(ticks)) / TICKS:.3g} virtual seconds, more "
            f"than {_LATEST // TICKS}; look at the speeds and intervals of rounds.devices"
        )


@dataclass(frozen=True, slots=True)
class Availability:
    """When some devices are online: intervals of a period, which repeats.

    A device is online from the start of an interval until just before its end.

    Args:
        periods: int64 [n], ticks; the first begins at virtual time 0.
        offsets: int64 [n + 1]; device ``i`` has the intervals ``offsets[i]:offsets[i + 1]``.
        starts: int64 [m], ticks since the period began, ascending for each device.
        ends: int64 [m], likewise; an interval ends where the next begins, or before.
    """

    periods: IntArray
    offsets: IntArray
    starts: IntArray
    ends: IntArray

    @classmethod
    def always(cls, n: int) -> Availability:
        """Return the availability of n devices that never go offline."""
        periods = np.full(n, DAY * TICKS, np.int64)
        return cls(periods, np.arange(n + 1, dtype=np.int64), 0 * periods, periods)

    def fault(self) -> tuple[int, str] | None:
        """Return the first device whose intervals are wrong, and what is; None if all are right."""
        owner = Ragged(self.offsets, self.starts).owners()
        follows = np.append(owner[1:] == owner[:-1], False)
        seconds = seconds_of(np.stack([self.starts, self.ends], axis=-1))
        faults = (
            (self.periods <= 0, "its period is not above 0"),
            (np.diff(self.offsets) == 0, "it is never online; leave it out"),
        )
        of_intervals = (
            (self.starts < 0, "begins before its period"),
            (self.ends <= self.starts, "is empty"),
            (self.ends > self.periods[owner], "ends after its period"),
            (follows & (self.ends > np.roll(self.starts, -1)), "is not over when the next begins"),
        )
        for wrong, text in faults:
            if wrong.any():
                return int(np.argmax(wrong)), text
        for wrong, text in of_intervals:
            if wrong.any():
                at = int(np.argmax(wrong))
                start, end = seconds[at].tolist()
                return int(owner[at]), f"its interval from {start:g} to {end:g} s {text}"
        return None

    def take(self, devices: IntArray) -> Availability:
        """Return the availability of some devices, int64 [c], in the order given."""
        rows = Ragged(self.offsets, self.starts)
        at, chosen = rows.positions(devices), rows.take(devices)
        return Availability(self.periods[devices], chosen.offsets, chosen.values, self.ends[at])

    def after(self, devices: IntArray, at: IntArray, online: IntArray) -> IntArray:
        """Return when devices have been online for some time, offline time not counted.

        Args:
            devices: int64 [c].
            at: int64 [c], ticks, when the time begins to count.
            online: int64 [c], ticks, from 1.

        Returns:
            int64 [c], ticks, the earliest such time.

        Raises:
            NumericError: If a time is later than the clock can tell.
        """
        some = self.take(devices)
        owner, lengths = Ragged(some.offsets, some.starts).owners(), some.ends - some.starts
        first, last = some.offsets[:-1], some.offsets[1:]
        turns, within = np.divmod(at, some.periods)
        elapsed = offsets_of(np.clip(within[owner] - some.starts, 0, lengths))
        # Intervals stand one after the other, so one running sum tells them all apart.
        before = offsets_of(lengths)
        per_period = before[last] - before[first]
        more, rest = np.divmod(elapsed[last] - elapsed[first] + online - 1, per_period)
        _check_latest((turns + more + 1.0) * some.periods)
        reached = before[first] + rest + 1
        interval = np.searchsorted(before, reached) - 1
        place = some.starts[interval] + reached - before[interval]
        return np.asarray((turns + more) * some.periods + place, np.int64)

    def next_online(self, devices: IntArray, at: IntArray) -> IntArray:
        """Return when devices are online next, int64 [c], ticks: ``at`` for those that are."""
        return self.after(devices, at, np.ones_like(at)) - 1

    def is_online(self, devices: IntArray, at: IntArray) -> NDArray[np.bool_]:
        """Return which devices are online, bool [c], at ``at``, int64 [c], ticks."""
        return np.asarray(self.next_online(devices, at) == at)
