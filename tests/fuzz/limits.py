"""How long a decoder may compute, and how much memory it may ask for."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Never

SECONDS = 1.0
"""Of processor time, for one input; others may use the processor too."""
BYTES = 2**29
"""What may be allocated beyond what the process has, for one input."""


_TORCH = "can't allocate memory"


class TooSlow(BaseException):
    """A decoder computes for too long; nothing that catches every `Exception` catches it."""


class TooLarge(Exception):
    """A decoder asks for more memory than an input of this size can be worth."""


def _stop(_signal: int, _frame: FrameType | None) -> Never:
    raise TooSlow(f"computes for more than {SECONDS:g} s")


@contextmanager
def bounded() -> Iterator[None]:
    """Bound processor time and memory of what is done inside; for the main thread, on Linux.

    Raises:
        TooSlow: If it computes for too long.
        MemoryError: If it asks for too much memory.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + BYTES
    handler = signal.signal(signal.SIGPROF, _stop)
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGPROF, handler)


def check_memory(error: BaseException | None) -> None:
    """Check that an error did not come of a request for too much memory.

    Raises:
        TooLarge: If it did: an error that is documented must not hide it.
    """
    while error is not None:
        # Python's parser, which reads the headers of arrays, runs out of its own stack, and says
        # nothing; numpy says what it wanted.
        if (isinstance(error, MemoryError) and error.args) or _TORCH in str(error):
            raise TooLarge(str(error))
        error = error.__cause__ or error.__context__
