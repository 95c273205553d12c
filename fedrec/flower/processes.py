"""Processes that outlive the one that started them, and how to be rid of them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

__all__ = ["end_marked", "marked_processes", "running_processes"]

PROC = Path("/proc")
GRACE = 8.0
PAUSE = 0.1


def marked_processes(marker: str) -> set[int]:
    """The processes whose environment holds a marker, and all that descend from them.

    Flower and Ray detach what they start from session and process group, but the environment is
    inherited. Descendants are followed because Ray's workers overwrite theirs with a title.

    Args:
        marker: ``NAME=value``, unique to the run.

    Returns:
        Process ids, without this one. Empty where there is no ``/proc``.
    """
    parents = running_processes()
    marked = {pid for pid in parents if _has(pid, marker)} - {os.getpid()}
    while grown := {pid for pid, parent in parents.items() if parent in marked} - marked:
        marked |= grown
    return marked


def end_marked(marker: str, known: set[int]) -> None:
    """Wait until the marked processes have gone, and kill those that stay.

    Args:
        marker: ``NAME=value``, unique to the run.
        known: Processes that were marked before their parents ended.
    """
    deadline = time.monotonic() + GRACE
    while left := (marked_processes(marker) | (known & set(running_processes()))):
        if time.monotonic() > deadline:
            for pid in left:
                _kill(pid)
            return
        time.sleep(PAUSE)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def running_processes() -> dict[int, int]:
    """Each running process and its parent; zombies are not running. Empty without ``/proc``."""
    if not PROC.is_dir():
        return {}
    found = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                found[int(folder.name)] = int(parent)
    return found


def _has(pid: int, marker: str) -> bool:
    try:
        return marker.encode() in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
