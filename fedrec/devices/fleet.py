"""The devices of all clients of a run: when a reply arrives."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from fedrec.devices.availability import Availability, seconds_of, ticks_of
from fedrec.errors import ConfigError
from fedrec.storage.files import checksum_of
from fedrec.types import FloatArray, IntArray

SLOWEST = 1e6
"""Seconds per example, at most."""

LIMITS = {"seconds_per_example": (0.0, SLOWEST), "download": (1.0, 1e15), "upload": (1.0, 1e15)}
"""What each speed is at least and at most; seconds per example are above 0."""


def fault_of(speeds: dict[str, FloatArray]) -> tuple[int, str] | None:
    """Return the first device with a speed outside of `LIMITS`, and what is wrong; None if all fit.

    Args:
        speeds: Per name of `LIMITS`, float64 [n].
    """
    for name, (least, most) in LIMITS.items():
        values = speeds[name]
        wrong = ~((values >= least) & (values > 0) & (values <= most))
        if wrong.any():
            at = int(np.argmax(wrong))
            expected = f"above {least:g}" if least == 0 else f"{least:g} or more"
            return at, f"its {name} is {values[at]:g}, expected {expected}, {most:g} at most"
    return None


@dataclass(frozen=True, slots=True)
class Fleet:
    """The devices of all clients, client by client.

    A job of a client is to download the shared parameters, to train on its examples, and to upload
    its update. It begins when the client is asked, or else as soon as the device is online. While
    the device is offline the job pauses, wherever it is, and goes on where it was.

    Args:
        seconds_per_example: float64 [n], to train on an example: a train item with its negatives,
            in one local epoch.
        download: float64 [n], bytes per second.
        upload: float64 [n], bytes per second.
        availability: When each is online.

    Raises:
        ConfigError: If arrays are not float64 [n], a speed is out of range, or intervals overlap.
    """

    seconds_per_example: FloatArray
    download: FloatArray
    upload: FloatArray
    availability: Availability

    def __post_init__(self) -> None:
        """Check all values."""
        n, online = len(self), self.availability
        speeds = {name: getattr(self, name) for name in LIMITS}
        for name, values in speeds.items():
            if values.dtype != np.float64 or values.shape != (n,):
                raise ConfigError(
                    f"a fleet has {name} of {values.dtype} {list(values.shape)}, expected float64 "
                    f"[{n}]"
                )
        sizes = len(online.periods), len(online.offsets) - 1, len(online.starts), len(online.ends)
        if sizes != (n, n, online.offsets[-1], online.offsets[-1]):
            raise ConfigError(
                f"a fleet of {n} devices has {sizes[0]} periods, {sizes[1]} rows of intervals, "
                f"{sizes[2]} starts and {sizes[3]} ends, which do not belong together"
            )
        if fault := fault_of(speeds) or online.fault():
            raise ConfigError(f"the device of client {fault[0]}: {fault[1]}")

    def __len__(self) -> int:
        return len(self.seconds_per_example)

    @property
    def hash(self) -> str:
        """The SHA-256 of all values."""
        arrays = {name: getattr(self, name) for name in LIMITS}
        parts = {each.name: getattr(self.availability, each.name) for each in fields(Availability)}
        return checksum_of({**arrays, **parts}, {})

    def arrivals(
        self,
        clients: IntArray,
        start: float,
        examples: IntArray,
        down_bytes: IntArray,
        up_bytes: IntArray,
    ) -> FloatArray:
        """Return when the replies of some clients arrive.

        A job takes ``down_bytes / download + examples * seconds_per_example + up_bytes / upload``
        seconds while its device is online, rounded up to whole ticks, and one tick at least.

        Args:
            clients: int64 [c].
            start: Virtual seconds, when they are asked.
            examples: int64 [c], on which each trains, over all local epochs.
            down_bytes: int64 [c], what each receives.
            up_bytes: int64 [c], what each sends.

        Returns:
            float64 [c], virtual seconds, multiples of 2**-10.

        Raises:
            NumericError: If a reply arrives later than the clock can tell.
        """
        seconds = down_bytes / self.download[clients]
        seconds = seconds + examples * self.seconds_per_example[clients]
        seconds = seconds + up_bytes / self.upload[clients]
        online = np.maximum(ticks_of(seconds), 1)
        begin = np.full(len(clients), ticks_of(start), np.int64)
        return seconds_of(self.availability.after(clients, begin, online))

    def online(self, clients: IntArray, time: float) -> NDArray[np.bool_]:
        """Return which of some clients, int64 [c], are online at a virtual second, bool [c]."""
        at = np.full(len(clients), ticks_of(time), np.int64)
        return self.availability.is_online(clients, at)

    def next_online(self, clients: IntArray, time: float) -> FloatArray:
        """Return the virtual second, from ``time``, at which each is online, float64 [c]."""
        at = np.full(len(clients), ticks_of(time), np.int64)
        return seconds_of(self.availability.next_online(clients, at))
