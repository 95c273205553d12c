"""Files that are replaced as a whole, so that a process that is killed leaves no half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedrec.errors import FedRecError, RunFolderError
from fedrec.types import FloatArray

__all__ = [
    "RESTORE",
    "checksum_of",
    "full_disk_named",
    "is_full",
    "json_values",
    "read_arrays",
    "remove_rests",
    "write_arrays",
    "write_bytes",
    "write_json",
    "write_text",
]

CHECKSUM = "checksum"
RESTORE = "put the file back from a copy, or run again with --overwrite"
"""What to do about a file of a run folder that is missing or damaged."""


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace a file as a whole: a reader sees the old content or the new, never a part.

    Args:
        path: The file; its folder exists.
        content: What is written.
        durable: Also after a loss of power, not only after the death of the process.

    Raises:
        FedRecError: If the disk is full; the old content stays.
        OSError: If it cannot be written for another reason.
    """
    temporary = None
    try:
        with full_disk_named(path):
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            temporary = Path(name)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
    finally:
        if temporary is not None:
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
        if is_full(error):
            raise FedRecError(f"disk full: {path} cannot be written; free some space") from error
        raise


def is_full(error: OSError) -> bool:
    """Return whether an error says that a disk is full, or a quota used up."""
    # numpy reports a short write in words alone.
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or " requested and " in str(error)


def remove_rests(path: Path) -> None:
    """Remove what a killed process has left of an unfinished `write_bytes` of a file."""
    for rest in path.parent.glob(f".{path.name}.*"):
        rest.unlink(missing_ok=True)


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
    if isinstance(value, list | tuple):
        return [json_values(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return json_values(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


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
    content = save(packed, {**texts, CHECKSUM: checksum_of(packed, texts)})
    write_bytes(path, content, durable=durable)


def read_arrays(path: Path) -> tuple[dict[str, FloatArray], dict[str, str]]:
    """Return the arrays and the metadata of a file that `write_arrays` wrote.

    Raises:
        RunFolderError: If it is missing, cannot be read or is damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            texts = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise RunFolderError(f"{path}: is missing; {RESTORE}") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunFolderError(f"{path}: cannot be read ({reason}); {RESTORE}") from error
    except (SafetensorError, ValueError) as error:
        raise RunFolderError(f"{path}: is damaged; {RESTORE}") from error
    checksum = texts.pop(CHECKSUM, None)
    if checksum is None:
        raise RunFolderError(f"{path}: was written by another version of fedrec; {RESTORE}")
    if checksum != checksum_of(arrays, texts):
        raise RunFolderError(f"{path}: is damaged: its checksum does not match; {RESTORE}")
    return arrays, texts


def checksum_of(arrays: Mapping[str, FloatArray], texts: Mapping[str, str]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes of arrays, and of texts by name."""
    state = hashlib.sha256(json.dumps(sorted(texts.items())).encode())
    for name in sorted(arrays):
        array = arrays[name]
        state.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        state.update(array.tobytes() if array.dtype.kind == "U" or not array.size else array.data)
    return state.hexdigest()
