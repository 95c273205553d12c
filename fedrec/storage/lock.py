"""Who is at work in a run folder: advisory locks, which end with the process that holds them.

The process that writes the run log locks the log; each worker shares a lock of the folder. So a
run that goes on, or a folder that is emptied, waits until what a killed run has left behind has
ended. Where the file system or the platform has no such locks, nobody is ever found at work.
"""

import os
import sys
import time
from pathlib import Path

if sys.platform != "win32":
    import fcntl

PAUSE = 0.02
# Seconds that a lock is tried for, so that one who only looks is in nobody's way.
PATIENCE = 0.3


def hold(path: Path, *, shared: bool = False, seconds: float = PATIENCE) -> int | None:
    """Lock a file or a folder until this process ends or the descriptor is closed.

    Args:
        path: What is locked; must exist.
        shared: Allow others to share it.
        seconds: How long to try.

    Returns:
        The descriptor; None where there are no locks.

    Raises:
        BlockingIOError: If another process holds it.
    """
    if sys.platform == "win32":
        return None
    handle = os.open(path, os.O_RDONLY)
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(handle)
                raise
        except OSError:
            os.close(handle)
            return None
        time.sleep(PAUSE)


def is_held(path: Path, seconds: float = PATIENCE) -> bool:
    """Wait for a lock of a file or a folder to end; return whether it is still held."""
    try:
        handle = hold(path, seconds=seconds)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    if handle is not None:
        os.close(handle)
    return False
