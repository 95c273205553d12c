"""Files that are replaced as a whole, locks of them, and the folder of cached data.

A process that is killed leaves no half of a file. Locks are advisory and end with the process that
holds them: the process that writes the run log locks the log; each worker shares a lock of the
folder. So a run that goes on, or a folder that is emptied, waits until what a killed run has left
behind has ended. Where the file system or the platform has no such locks, nobody is ever at work.
"""

import errno
import hashlib
import json
import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from pydantic_core import from_json
from safetensors import SafetensorError, safe_open

from fedrec.errors import DataError, FedRecError, RunFolderError
from fedrec.plugins import expand_path
from fedrec.types import FloatArray

if sys.platform != "win32":
    import fcntl

PAUSE = 0.02
# Seconds that a lock is tried for, so that one who only looks is in nobody's way.
PATIENCE = 0.3
CHECKSUM = "checksum"
DTYPES = {
    "I64": np.int64,
    "F64": np.float64,
    "F32": np.float32,
    "BOOL": np.bool_,
}  # of arrays that can be mapped
# What to do about a file of a run folder that is missing or damaged.
RESTORE = "put the file back from a copy, or run again with --overwrite"


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace a file as a whole: a reader sees the old content or the new, never a part.

    If ``durable``, it lasts through a loss of power, not only the death of the process.

    Raises:
        FedRecError: If the disk is full; the old content stays.
        OSError: If it cannot be written for another reason.
    """
    _write_parts(path, [content], durable)


def _write_parts(path: Path, parts: Iterable[bytes | memoryview], durable: bool) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with full_disk_named(path):
            with temporary.open("xb") as file:
                for part in parts:
                    file.write(part)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turn the failure of a write into one line, if the disk is full.

    Args:
        path: The file that is written.

    Raises:
        FedRecError: If the disk is full. Other errors pass.
    """
    try:
        yield
    except OSError as error:
        # numpy reports a short write in words alone.
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or " requested and " in str(error):
            raise FedRecError(f"disk full: {path} cannot be written; free some space") from error
        raise


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a JSON file as a whole. A value that is not finite becomes null."""
    text = json.dumps(json_values(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def json_values(value: Any) -> Any:
    """Return a value as JSON has it: numpy as numbers and lists, what is not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): json_values(item) for key, item in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [json_values(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def write_arrays(
    path: Path,
    arrays: Mapping[str, FloatArray],
    metadata: Mapping[str, str] | None = None,
    *,
    durable: bool = True,
) -> None:
    """Replace a safetensors file as a whole. It carries a checksum of its content.

    Args:
        path: The file; its folder is made.
        arrays: By name.
        metadata: Text by name, such as the round.
        durable: As for `write_bytes`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    texts = dict(metadata or {})
    texts[CHECKSUM] = checksum_of(packed, texts)
    _write_parts(path, _safetensors(packed, texts), durable)


def _safetensors(
    arrays: Mapping[str, FloatArray], texts: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file part by part: large arrays are not copied, as its library does."""
    # Wide types first: so all values are aligned.
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(texts)}
    end = 0
    for name in names:
        array = arrays[name]
        kind = "BOOL" if array.dtype == bool else f"{array.dtype.kind.upper()}{8 * array.itemsize}"
        start, end = end, end + array.nbytes
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    yield from (arrays[name].data for name in names if arrays[name].size)


def check_regular(path: Path) -> None:
    """Check that a path is no pipe, device or folder: reading a pipe would wait for ever.

    Raises:
        RunFolderError: If it is one.
    """
    if path.exists() and not path.is_file():
        raise RunFolderError(f"{path}: is damaged (it is not a regular file); {RESTORE}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into one line that names it.

    Raises:
        RunFolderError: If the file is missing, cannot be read, or holds what it should not.
    """
    check_regular(path)
    try:
        yield
    except FileNotFoundError as error:
        raise RunFolderError(f"{path}: is missing; {RESTORE}") from error
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0]
        raise RunFolderError(f"{path}: cannot be read ({reason}); {RESTORE}") from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise RunFolderError(f"{path}: is damaged ({reason}); {RESTORE}") from error


def read_arrays(path: Path) -> tuple[dict[str, FloatArray], dict[str, str]]:
    """Return the arrays and the metadata of a file that `write_arrays` wrote.

    Raises:
        RunFolderError: If it is missing, cannot be read or is damaged.
    """
    with reading(path), safe_open(path, framework="numpy") as file:
        texts = dict(file.metadata() or {})
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if texts.pop(CHECKSUM, None) != checksum_of(arrays, texts):
        raise RunFolderError(
            f"{path}: is damaged, or from another version of fedrec: its checksum does not match; "
            f"{RESTORE}"
        )
    return arrays, texts


def map_arrays(path: Path) -> tuple[dict[str, FloatArray], dict[str, str]]:
    """Return the same as `read_arrays`, unchecked; the arrays stay on disk, mapped read-only.

    Raises:
        RunFolderError: If it is missing or damaged.
    """
    with reading(path):
        content = np.memmap(path, np.uint8, "r")
        start = 8 + int.from_bytes(content[:8].tobytes(), "little")
        header = dict(from_json(content[8:start].tobytes()))
        texts = header.pop("__metadata__")
        arrays = dict[str, FloatArray]()
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            dtype: type[Any] = DTYPES[entry["dtype"]]
            mapped = content[start + first : start + last].view(dtype)
            arrays[name] = np.asarray(mapped.reshape(entry["shape"]))
    return arrays, texts


def content_mark(path: Path) -> str:
    """Return size and checksum that a file of `write_arrays` says it has; "" if it is none.

    Two files with the same mark have the same content, unless one is damaged.
    """
    try:
        return f"{path.stat().st_size} {map_arrays(path)[1][CHECKSUM]}"
    except (RunFolderError, OSError, KeyError):
        return ""


def checksum_of(arrays: Mapping[str, FloatArray], texts: Mapping[str, str]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes of arrays, and of texts by name."""
    state = hashlib.sha256(json.dumps(sorted(texts.items())).encode())
    for name in sorted(arrays):
        array = arrays[name]
        state.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        if array.dtype == object:
            state.update(json.dumps(array.tolist()).encode())
        elif array.size:
            state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


def cache_folder() -> Path:
    """Return where fetched and prepared data is kept: ``FEDREC_CACHE``, or the user's cache.

    Raises:
        FedRecError: If neither is known.
    """
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
