"""Files that are replaced as a whole, so that a process that is killed leaves no half of one."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from fedrec.errors import FedRecError
from fedrec.types import FloatArray

__all__ = ["is_full", "remove_rests", "write_arrays", "write_bytes", "write_json", "write_text"]


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
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if is_full(error):
            raise FedRecError(f"disk full: {path} cannot be written; free some space") from error
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


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
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def write_arrays(
    path: Path, arrays: Mapping[str, FloatArray], metadata: Mapping[str, str] | None = None
) -> None:
    """Replace a safetensors file as a whole.

    Args:
        path: The file; its folder is made.
        arrays: By name.
        metadata: Text by name, such as the round.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_bytes(path, save(packed, dict(metadata or {})))
