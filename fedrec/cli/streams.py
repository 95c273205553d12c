"""Standard streams that break no command: any encoding, a closed stream, a reader that left."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import Any

__all__ = ["open_streams"]

PLAIN = {"±": "+/-", "×": "x", "…": "...", "—": "-", "–": "-", "≤": "<=", "≥": ">=", "’": "'"}
CLOSED_BY_READER = {errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN}


class Stream(io.TextIOWrapper):
    """Writes text; what nobody reads any more is dropped, and the work goes on.

    Args:
        buffer: Where to.
        optional: Whether every error of writing is ignored, as of a progress display.
        options: Of `io.TextIOWrapper`.

    Attributes:
        error: Why text could not be written, unless its reader left or it is optional.
    """

    def __init__(self, buffer: Any, optional: bool, **options: Any) -> None:
        super().__init__(buffer, errors="fedrec", **options)
        self._optional = optional
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write text; see `io.TextIOBase.write`."""
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Write what is buffered; see `io.IOBase.flush`."""
        if self.closed:
            return
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Let all that is still to be written go nowhere."""
        if not self._optional and error.errno not in CLOSED_BY_READER:
            self.error = self.error or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def open_streams() -> None:
    """Make standard output and error safe to write to.

    A character that the encoding lacks is replaced by a similar one or by its escape. A closed
    stream is opened on the null device, so that no file of a run takes its number.
    """
    codecs.register_error("fedrec", _replace)
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _stream(sys.stdout, 1)
    sys.stderr = _stream(sys.stderr, 2)


def _stream(stream: Any, number: int) -> Any:
    optional = number == 2
    if stream is None:
        return Stream(open(number, "wb", closefd=False), optional, encoding="utf-8")
    if type(stream) is not io.TextIOWrapper:  # somebody's own, as in a notebook or a test
        return stream
    encoding, buffering = stream.encoding, stream.line_buffering
    return Stream(stream.detach(), optional, encoding=encoding, line_buffering=buffering)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    texts = [
        PLAIN.get(each) or each.encode("ascii", "backslashreplace").decode("ascii")
        for each in error.object[error.start : error.end]
    ]
    return "".join(texts), error.end
