"""What commands print, on streams that break no command."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDTH_OF_A_FILE = 200
CLOSED_BY_READER = {errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN}


class Stream(io.TextIOWrapper):
    """Writes text; what nobody reads any more is dropped, and the work goes on."""

    error: OSError | None = None
    """Why text could not be written, unless its reader left."""

    def write(self, text: str) -> int:
        """Write text; see `io.TextIOBase.write`."""
        with self._dropping():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered; see `io.IOBase.flush`."""
        with self._dropping():
            if not self.closed:
                super().flush()

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        """Let all that is still to be written go nowhere once writing has failed."""
        try:
            yield
        except OSError as error:
            if error.errno not in CLOSED_BY_READER:
                self.error = self.error or error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


def open_streams() -> None:
    """Make standard output and error safe to write to.

    A character that the encoding lacks is replaced by its escape. A closed stream is opened on
    the null device, so that no file of a run takes its number.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
        stream = getattr(sys, name)
        if stream is None:
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
        if number and type(stream) is io.TextIOWrapper:  # not one of a notebook or a test
            encoding, buffering = stream.encoding, stream.line_buffering
            stream = Stream(stream.detach(), encoding, "backslashreplace", None, buffering)
        setattr(sys, name, stream)


def say(text: str) -> None:
    """Print a line on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def write(text: str) -> None:
    """Print a line on stdout."""
    sys.stdout.write(text + "\n")


def console() -> Console:
    """Return the console for tables on stdout."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH_OF_A_FILE
    return Console(width=width)


def print_table(table: object) -> None:
    """Print a table on stdout."""
    console().print(table)
