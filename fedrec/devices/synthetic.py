"""Made devices: lognormal speeds, and a time of the day at which most are online."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from fedrec.compute.context import RoundContext
from fedrec.devices.availability import DAY, TICKS, Availability
from fedrec.devices.base import Devices
from fedrec.devices.fleet import LIMITS, SLOWEST, Fleet
from fedrec.ragged import Ragged, offsets_of
from fedrec.types import FloatArray, IntArray

_PARTS = 2**20
"""Of a second, to which seconds per example are rounded."""


class SyntheticDevices(Devices):
    """Devices drawn by the seed of the run; none of them was measured.

    Speeds are lognormal. A device is online once a day, for some hours around a time of its own;
    devices prefer the hour ``peak``. The defaults have the magnitudes that are published for
    phones: FedScale's simulator takes 5 ms times lognormal(1, 0.6) for an example, an image; its
    network traces, from MobiPerf, have a median of about 6 Mbit/s, and a quarter are below 3 (both
    ways alike; here uploads are as much slower as US phones' were in 2017). Bonawitz et al. saw
    four times as many phones at night as by day. An example of a recommender is far less work
    than an image, so measure your own where computing matters.

    What is drawn is rounded (to 2**-20 s, bytes per second, seconds), so that two libraries whose
    exponentials differ in the last bit draw the same devices.

    Args:
        seconds_per_example: the median, for a train item with its negatives in one local epoch.
        spread: standard deviation of the logarithm of the seconds per example.
        download: median of the bytes per second that a device receives.
        upload: median of the bytes per second that it sends; a device that is slow one way is as
            slow the other.
        network_spread: standard deviation of the logarithm of both.
        online_hours: median of the hours of a day for which a device is online; 24 of all
            devices, with ``online_spread`` 0, is always.
        online_spread: standard deviation of its logarithm; more than 24 hours are 24.
        peak: the hour of the virtual day around which most devices are online; a run begins at
            hour 0.
        contrast: how much they prefer it: with 0 any hour is as likely the middle of a device's
            time, with 1 none has the opposite hour for its middle. Between, the density falls
            linearly. By default four times as many are online at the peak as opposite.

    Reference: lai2022fedscale; bonawitz2019towards, section 9.
    """

    reference: ClassVar[str] = "lai2022fedscale"

    seconds_per_example: float = Field(0.0136, gt=0, le=SLOWEST)
    spread: float = Field(0.6, ge=0, le=5)
    download: float = Field(760_000.0, ge=1)
    upload: float = Field(280_000.0, ge=1)
    network_spread: float = Field(1.1, ge=0, le=5)
    online_hours: float = Field(8.0, gt=0, le=24)
    online_spread: float = Field(0.3, ge=0, le=5)
    peak: float = Field(2.0, ge=0, lt=24)
    contrast: float = Field(1.0, ge=0, le=1)

    def fleet(self, context: RoundContext) -> Fleet:
        """Draw the devices; a client has the same whoever else takes part."""
        clients = np.arange(context.n_clients, dtype=np.int64)
        normal = context.normal("devices", clients, np.ones_like(clients), 3).astype(np.float64)

        def drawn(median: float, spread: float, column: int) -> FloatArray:
            return median * np.exp(spread * normal[:, column])

        seconds = np.rint(drawn(self.seconds_per_example, self.spread, 0) * _PARTS)
        rates = {
            name: np.rint(drawn(getattr(self, name), self.network_spread, 1)).clip(*LIMITS[name])
            for name in ("download", "upload")
        }
        hours = drawn(self.online_hours, self.online_spread, 2)
        lengths = np.rint(hours * 3600).clip(1, DAY).astype(np.int64)
        position = context.uniform("devices peak", clients, np.zeros(1, np.int64))
        return Fleet(
            (seconds / _PARTS).clip(1 / _PARTS, SLOWEST),
            **rates,
            availability=_daily(self._middles(position), lengths),
        )

    def _middles(self, position: FloatArray) -> IntArray:
        """Return the middle of each device's time, int64 [n], second of the day.

        Args:
            position: float64 [n] in (0, 1), which share of devices comes before it.
        """
        side, share = np.sign(position - 0.5), np.abs(2.0 * position - 1.0)
        # The inverse of the distribution whose density falls linearly from the peak.
        c = self.contrast
        distance = (2.0 - c) * share / (1.0 + np.sqrt(1.0 - c * (2.0 - c) * share))
        middles = np.rint(3600.0 * self.peak + side * distance * DAY / 2)
        return np.asarray(middles.astype(np.int64) % DAY)


def _daily(middles: IntArray, lengths: IntArray) -> Availability:
    """Return the availability of devices that are online once a day.

    Args:
        middles: int64 [n], seconds of the day.
        lengths: int64 [n], seconds.
    """
    starts = np.where(lengths < DAY, (middles - lengths // 2) % DAY, 0)
    ends = starts + lengths
    crosses = ends > DAY
    offsets = offsets_of(1 + crosses)
    owner = Ragged(offsets, offsets).owners()
    starts_of, ends_of = starts[owner], np.minimum(ends, DAY)[owner]
    # Who is online at midnight has two intervals, and the first begins the day.
    morning = offsets[:-1][crosses]
    starts_of[morning], ends_of[morning] = 0, (ends - DAY)[crosses]
    periods = np.full(len(middles), DAY * TICKS, np.int64)
    return Availability(periods, offsets, starts_of * TICKS, ends_of * TICKS)
