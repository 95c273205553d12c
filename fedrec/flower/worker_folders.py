"""Folders that workers have on their machine while they run, and that nobody needs afterwards."""

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from fedrec.flower.shipped_code import private_folder
from fedrec.storage.files import hold, is_held

STALE_SECONDS = 600.0


class WorkerFolders:
    """The folders that one worker uses, until `remove`.

    What a worker that was killed has left is removed by the next one that makes a folder there.
    """

    def __init__(self) -> None:
        self._held: dict[Path, int | None] = {}

    def make(self) -> Path:
        """Make a folder of this worker's alone."""
        _remove_stale()
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=private_folder()))
        self.hold(folder)
        return folder

    def hold(self, folder: Path) -> None:
        """Keep a folder, perhaps with others, from being removed."""
        self._held[folder] = hold(folder, shared=True)

    def remove(self) -> None:
        """Remove the folders that no other worker holds."""
        for folder, handle in self._held.items():
            if handle is not None:
                os.close(handle)
            if not is_held(folder, 0.0):
                shutil.rmtree(folder, ignore_errors=True)
        self._held = {}


def _remove_stale() -> None:
    """Remove what nobody holds and has used for a while, so that nobody is about to hold it."""
    for folder in private_folder().iterdir():
        with suppress(OSError):  # another worker may remove it too
            unused = time.time() - folder.stat().st_mtime > STALE_SECONDS
            if unused and not is_held(folder, 0.0):
                shutil.rmtree(folder, ignore_errors=True)
