"""CPU time and memory of this process and of all that it has started."""

import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import psutil

__all__ = ["GIB", "Kind", "Meter", "Peak", "metered"]

GIB = 2**30
PROC = Path("/proc")
VARIABLE = "FEDREC_BENCH"
RAY_DAEMONS = ("raylet", "gcs_server", "ray/_private", "ray/dashboard", "ray/autoscaler")

Kind: TypeAlias = Literal["driver", "workers", "daemons"]
"""``driver``: this process. ``daemons``: Ray's own. ``workers``: all others."""


@dataclass
class Peak:
    """The most memory seen at once, and what of it belonged to whom.

    Args:
        bytes: proportional set size of all processes at that moment.
        of: the same by kind of process.
        cost: seconds of the driver's CPU that the readings themselves have taken.
    """

    bytes: int = 0
    of: dict[Kind, int] = field(default_factory=dict)
    cost: float = 0.0

    def see(self, sizes: Mapping[Kind, int]) -> None:
        """Take a reading into account."""
        if sum(sizes.values()) > self.bytes:
            self.bytes, self.of = sum(sizes.values()), dict(sizes)


@dataclass(frozen=True, slots=True)
class Meter:
    """Reads ``/proc``; where there is none, every reading is 0.

    Args:
        marker: ``NAME=value`` in the environment of what was started.
    """

    marker: str

    def cpu(self) -> dict[Kind, float]:
        """Seconds of CPU that the running processes have used so far, by kind."""
        tick = os.sysconf("SC_CLK_TCK")
        seconds: dict[Kind, float] = {"driver": 0.0, "workers": 0.0, "daemons": 0.0}
        for pid, kind in self._processes().items():
            try:
                fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            seconds[kind] += (int(fields[11]) + int(fields[12])) / tick
        return seconds

    def memory(self, field: str = "Pss") -> dict[Kind, int]:
        """Bytes of memory by kind, as proportional set size: shared pages are counted once.

        Args:
            field: of ``smaps_rollup``; ``Pss_Anon`` leaves out the pages of files, of which other
                people's processes may share some.
        """
        sizes: dict[Kind, int] = {"driver": 0, "workers": 0, "daemons": 0}
        for pid, kind in self._processes().items():
            try:
                text = (PROC / str(pid) / "smaps_rollup").read_text()
            except OSError:
                continue
            lines = (line.split() for line in text.splitlines())
            sizes[kind] += next(
                (int(line[1]) * 1024 for line in lines if line[0] == f"{field}:"), 0
            )
        return sizes

    @contextmanager
    def peak(self, pause: float = 1.0) -> Iterator[Peak]:
        """Read the memory again and again while it lasts.

        Args:
            pause: Seconds between two readings.
        """
        seen, over = Peak(), threading.Event()

        def watch() -> None:
            while not over.wait(pause):
                seen.see(self.memory())
                seen.cost = time.thread_time()

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        try:
            yield seen
        finally:
            seen.see(self.memory())
            over.set()
            watching.join()

    def _processes(self) -> dict[int, Kind]:
        kinds: dict[int, Kind] = {pid: _kind(pid) for pid in _marked(self.marker)}
        if PROC.is_dir():
            kinds[os.getpid()] = "driver"
        return kinds


@contextmanager
def metered() -> Iterator[Meter]:
    """A meter of this process and of what it starts while this lasts."""
    value = uuid.uuid4().hex
    former = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = value
    try:
        yield Meter(f"{VARIABLE}={value}")
    finally:
        os.environ.pop(VARIABLE)
        if former is not None:
            os.environ[VARIABLE] = former


def _marked(marker: str) -> list[int]:
    """Return the processes that have the marker in their environment."""
    name, _, value = marker.partition("=")
    pids = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(name) == value:
                pids.append(process.pid)
    return pids


def _kind(pid: int) -> Kind:
    try:
        command = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (OSError, UnicodeDecodeError):
        return "workers"
    return "daemons" if any(name in command for name in RAY_DAEMONS) else "workers"
