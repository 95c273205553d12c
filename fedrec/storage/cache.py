"""The folder in which data sets and prepared splits are kept."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedrec.errors import DataError, FedRecError
from fedrec.plugins import expand_path

__all__ = ["cache_folder", "writing"]


def cache_folder() -> Path:
    """Return where fetched and prepared data is kept: ``FEDREC_CACHE``, or the user's cache.

    Raises:
        FedRecError: If neither is known.
    """
    import platformdirs

    chosen = os.environ.get("FEDREC_CACHE")
    if chosen:
        return expand_path(chosen).absolute()
    with suppress(RuntimeError):
        folder = platformdirs.user_cache_path("fedrec", appauthor=False)
        if folder.is_absolute():
            return folder
    raise FedRecError("there is no home folder; set FEDREC_CACHE to a folder for cached data")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make the folder of a file in the cache, and say what to do if it cannot be written.

    Raises:
        DataError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except (FedRecError, OSError) as error:  # of fedrec if the disk is full
        raise DataError(
            f"{path}: cannot be written ({error}); set FEDREC_CACHE to another folder"
        ) from error
