"""The run folder: what a run leaves behind, how it is made and emptied.

::

    config.yaml            the resolved experiment
    split.arrow            raw ids, and the train, validation and test items of every user
    source/                the modules of plug-ins that are not fedrec's own
    rounds.jsonl           one line a round (`fedrec.runs.log`); its presence makes the folder a run
    result.json            scores, times, bytes, digest, versions, warnings, hashes of all files
    per_user.parquet       one row a user: raw id, client, train items, scores at the best round
    model.safetensors      shared parameters at the best round
    checkpoint.safetensors what the server must know to continue after the latest round
    local/node-*.safetensors   private parameters at the best round (and the latest), a file a node
    state/node-*/          all private state after the latest round, as the nodes keep it

Every file but the run log is replaced as a whole, so a run that is killed stays readable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrec.errors import RunFolderError
from fedrec.storage.files import (
    json_values,
    remove_rests,
    write_bytes,
    write_json,
    write_text,
)
from fedrec.storage.lock import await_idle, is_held

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "FINISHED",
    "FORMAT",
    "LOCAL",
    "MODEL",
    "PER_USER",
    "RESULT",
    "ROUNDS",
    "SOURCE",
    "SPLIT",
    "STATE",
    "await_end",
    "check_free",
    "create",
    "discard_unstarted",
    "is_run_folder",
    "result_checksum",
    "sha256_of",
    "write_config",
    "write_result",
]

CONFIG = "config.yaml"
SPLIT = "split.arrow"
ROUNDS = "rounds.jsonl"
RESULT = "result.json"
PER_USER = "per_user.parquet"
MODEL = "model.safetensors"
CHECKPOINT = "checkpoint.safetensors"
LOCAL = "local"
STATE = "state"
SOURCE = "source"
FILES = (CONFIG, SPLIT, RESULT, PER_USER, MODEL, CHECKPOINT, ROUNDS)
FORMAT = 2
"""Of a run folder. Folders of another format are refused."""
FINISHED = ("completed", "early_stop")
"""The statuses of a run that came to its end."""
SECONDS_TO_END = 30.0


def is_run_folder(path: Path) -> bool:
    """Return whether fedrec made that folder for a run."""
    try:
        return (path / ROUNDS).is_file()
    except OSError:  # such as a name that is too long
        return False


def create(path: Path, overwrite: bool = False) -> Path:
    """Make a run folder, ready to be written, with an empty run log.

    Args:
        path: The folder. Missing parents are made; an empty folder is used as it is.
        overwrite: Empty an existing run folder. Only files of fedrec are removed.

    Raises:
        RunFolderError: If it exists and may not be overwritten, is something else, or cannot be
            written.
    """
    check_free(path, overwrite)
    try:
        if is_run_folder(path):
            await_end(path)
            _clear(path)
        path.mkdir(parents=True, exist_ok=True)
        write_bytes(path / ROUNDS, b"")
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def check_free(path: Path, overwrite: bool = False) -> None:
    """Check that `create` would take a folder, as far as can be told without writing.

    Args:
        path: The folder.
        overwrite: Whether a run folder may be emptied.

    Raises:
        RunFolderError: As `create`.
    """
    try:
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path}: is a file; give --out a folder")
        if is_run_folder(path):
            if is_held(path / ROUNDS):
                raise RunFolderError(f"{path}: holds a run that is under way")
            if not overwrite:
                resumable = (path / CHECKPOINT).exists() and not _is_finished(path)
                way_out = f"continue it with --resume {path}, " if resumable else ""
                raise RunFolderError(
                    f"{path}: holds a run already; {way_out}add --overwrite or choose another --out"
                )
        elif path.exists() and any(path.iterdir()):
            raise RunFolderError(
                f"{path}: is not empty and is no run folder, so it is left alone; "
                "choose another --out"
            )
    except OSError as error:
        raise _unwritable(path, error) from error


def await_end(path: Path) -> None:
    """Wait until nobody works in a run folder: the workers of a killed run take a moment to end.

    Raises:
        RunFolderError: If a run is under way in it.
    """
    if is_held(path / ROUNDS):
        raise RunFolderError(f"{path}: its run is under way in another process; wait or stop it")
    if not await_idle(path, SECONDS_TO_END):
        raise RunFolderError(
            f"{path}: workers of an earlier process are still at work in it; end them first"
        )


def remove_unfinished(path: Path) -> None:
    """Remove the unfinished files that a killed run has left in its folder."""
    for name in (*FILES, f"{LOCAL}/node-*"):
        remove_rests(path / name)
    for node in (path / STATE).glob("node-*"):
        remove_rests(node / "*")


def discard_unstarted(path: Path) -> None:
    """Remove a run folder whose run broke off before its first round; others stay."""
    try:
        if is_run_folder(path) and not (path / ROUNDS).stat().st_size:
            await_end(path)
            _clear(path)
            path.rmdir()
    except (OSError, RunFolderError):
        return  # something else is in it, or came into it: what broke off the run counts more


def write_config(path: Path, text: str) -> None:
    """Write the resolved experiment, below a line that names the format of the folder."""
    write_text(path / CONFIG, f"# fedrec run folder, format {FORMAT}\n{text}")


def write_result(path: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``result.json``, with the hashes of all other files, so that damage is noticed.

    Args:
        path: The run folder.
        result: Values of JSON, and numpy values.

    Returns:
        What was written.
    """
    paths = [path / name for name in FILES if name != RESULT]
    paths += [*(path / LOCAL).glob("node-*.safetensors"), *(path / SOURCE).rglob("*.py")]
    hashes = {
        each.relative_to(path).as_posix(): sha256_of(each)
        for each in sorted(paths)
        if each.is_file()
    }
    written: dict[str, Any] = {"format": FORMAT, **result, "files": hashes}
    written = json_values(written)
    written["checksum"] = result_checksum(written)
    write_json(path / RESULT, written)
    return written


def result_checksum(result: Mapping[str, Any]) -> str:
    """Return the hash of a result, without the hash itself."""
    rest = {name: value for name, value in result.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _unwritable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"{path}: cannot be written ({error.strerror}); choose another --out")


def _is_finished(path: Path) -> bool:
    try:
        return json.loads((path / RESULT).read_text(encoding="utf-8")).get("status") in FINISHED
    except (OSError, ValueError, AttributeError):
        return False


def _clear(path: Path) -> None:
    remove_unfinished(path)
    ours = [path / name for name in FILES]
    ours += [*(path / LOCAL).glob("node-*.safetensors"), *(path / SOURCE).rglob("*.py")]
    ours += (path / STATE).glob("node-*/*")
    for file in ours:
        if file.is_file():
            file.unlink()
    folders = [path / LOCAL, path / STATE, path / SOURCE, *(path / STATE).glob("node-*")]
    folders += [each for each in (path / SOURCE).rglob("*") if each.is_dir()]
    for folder in sorted(folders, key=lambda each: len(each.parts), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
