"""The folder in which data sets and prepared arrays are kept, safe for several processes."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedrec.errors import ConfigError, DataError, FedRecError
from fedrec.storage.files import is_full

__all__ = ["cache_folder", "expanded", "publish", "scratch"]


def cache_folder() -> Path:
    """Return where fetched and prepared data is kept: ``FEDREC_CACHE``, or the user's cache.

    Raises:
        FedRecError: If neither is known.
    """
    import platformdirs

    chosen = os.environ.get("FEDREC_CACHE")
    if chosen:
        return expanded(chosen).absolute()
    try:
        folder = platformdirs.user_cache_path("fedrec", appauthor=False)
    except RuntimeError:
        folder = Path()
    if not folder.is_absolute():
        raise FedRecError("there is no home folder; set FEDREC_CACHE to a folder for cached data")
    return folder


def expanded(path: str | Path) -> Path:
    """Replace ``~`` and ``~name`` at the start of a path by the home folder.

    Raises:
        ConfigError: If there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{path}: there is no home folder for '~'; give the whole path"
        ) from error


@contextmanager
def scratch(beside: Path) -> Iterator[Path]:
    """A new empty folder next to a target, removed at the end unless it was moved away.

    Args:
        beside: The target; its parent folders are made.

    Raises:
        DataError: If the folder cannot be written.
    """
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{beside.name}-", dir=beside.parent))
    except OSError as error:
        raise _unwritable(beside, error) from error
    try:
        yield folder
    except OSError as error:
        raise _unwritable(beside, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(source: Path, target: Path, intact: Callable[[Path], bool]) -> Path:
    """Move a complete folder to its place in one step.

    Where another process was faster, its folder stays; a damaged one is replaced.

    Args:
        source: A folder on the same file system, as from `scratch`.
        target: Its place.
        intact: Whether a folder in that place is whole.

    Returns:
        The target.

    Raises:
        DataError: If the target cannot be written.
    """
    failure = OSError("it keeps being replaced by another process")
    for _ in range(10):
        try:
            os.rename(source, target)
            return target
        except OSError as error:
            failure = error
        if not target.exists():
            break
        if intact(target):
            return target
        aside = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
        try:
            os.rename(target, aside)
        except OSError as error:
            failure = error
            continue
        shutil.rmtree(aside, ignore_errors=True)
    raise _unwritable(target, failure)


def _unwritable(target: Path, error: OSError) -> DataError:
    if is_full(error):
        return DataError(
            f"disk full: {target} cannot be written; free some space, or set FEDREC_CACHE to a "
            "folder on another disk"
        )
    return DataError(
        f"{target}: cannot be written ({error.strerror or error}); "
        "set FEDREC_CACHE to a folder that can"
    )
