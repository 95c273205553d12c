"""Lines that other processes write into a file, as they come."""

from collections.abc import Iterator
from pathlib import Path


class FollowedFile:
    """The lines that are written into a file from now on.

    Args:
        path: The file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0

    def lines(self) -> Iterator[str]:
        """Yield the complete lines that are new since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        self._at += len(complete)
        yield from complete.decode(errors="replace").splitlines()
