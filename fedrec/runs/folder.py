"""The run folder: what a run leaves behind, how it is named, made and emptied.

::

    config.yaml            the resolved experiment
    split.safetensors      raw ids, and the train, validation and test items of every user
    features.safetensors   the features of the items, if there are any and they are not too large
    source/                the modules of plug-ins that are not fedrec's own
    bundle.safetensors     where devices have the data: the items, and what else devices carry
    roster.json            likewise: which devices take part, and the numbers of their clients
    rounds.jsonl           one line a round (`fedrec.runs.log`); its presence makes the folder a run
    result.json            scores, times, bytes, digest, versions, warnings, hashes of all files
    per_user.parquet       one row a user: raw id, client, train items, scores at the best round
    model.safetensors      shared parameters at the best round
    checkpoint.safetensors what the server must know to continue after the latest round
    local/node-*.safetensors   private parameters at the best round (and the latest), by node;
                           with phases at the end also those after it
    state/node-*/          all private state after the latest round, as the nodes keep it, and what
                           the server told them at the start

Every file but the run log is replaced as a whole, so a run that is killed stays readable.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from fedrec.errors import RunFolderError
from fedrec.storage.files import is_held, json_values, write_bytes, write_json

CONFIG = "config.yaml"
SPLIT = "split.safetensors"
FEATURES = "features.safetensors"
ROUNDS = "rounds.jsonl"
RESULT = "result.json"
PER_USER = "per_user.parquet"
MODEL = "model.safetensors"
CHECKPOINT = "checkpoint.safetensors"
LOCAL = "local"
SOURCE = "source"
BUNDLE = "bundle.safetensors"
ROSTER = "roster.json"
# In the folder of a device's state: where its data lies, and the folder of each run.
OWN_FILE = "device.json"
RUNS = "runs"
# In the folder of a node's private state, on a device: its data as the run began with.
SNAPSHOT = "data.safetensors"
# Beside a device's private parameters of a round: what its clients received.
RECEIVED = "received"
# What a server said of a run to a node.
DESCRIPTION = "run.json"
STATE = "state"
# In the folder of the run folders of several seeds: which seeds they are.
SEEDS = "seeds.json"
# The files whose hashes stand in the result.
HASHED = (
    CONFIG,
    SPLIT,
    FEATURES,
    BUNDLE,
    ROSTER,
    PER_USER,
    MODEL,
    CHECKPOINT,
    ROUNDS,
    f"{LOCAL}/node-*.safetensors",
    f"{SOURCE}/**/*.py",
)
# All files of a run folder.
FILES = (*HASHED, RESULT, f"{STATE}/node-*/*")
# Of a run folder. Folders of another format are refused.
FORMAT = 4
# How the configuration begins.
HEADER = f"# fedrec run folder, format {FORMAT}\n"
# The statuses of a run that came to its end.
FINISHED = ("completed", "early_stop")
# The view, in values of users and in the result, of the ranking before the phases at the end.
BEFORE_END: Final = "before_end"
SECONDS_TO_END = 30.0
LONGEST_NAME = 60


def default_folder(source: Any, sets: Sequence[str] = (), seed: int | None = None) -> Path:
    """Return the folder of a run for which none was given, named after the file of its experiment.

    The overrides ``dotted.key=value`` become a part of its name, so that runs with other settings
    have other folders; those of ``engine`` change no result and are left out, as is ``seed``. What
    does not fit into a name is told apart by a hash. A folder for several runs has no seed.

    Example:
        >>> default_folder("mf", ["rounds.count=5", "engine.workers=2"], 1).as_posix()
        'runs/mf-rounds.count=5-seed1'
    """
    stem = Path(source).stem if isinstance(source, str | Path) else "experiment"
    values = {key.strip(): value.strip() for key, _, value in (s.partition("=") for s in sets)}
    text = ",".join(
        f"{key}={value}"
        for key, value in sorted(values.items())
        if key != "seed" and key.partition(".")[0] != "engine"
    )
    name = re.sub(r"[^\w.,=+-]+", "_", text, flags=re.ASCII)
    if name != text or len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    ending = "" if seed is None else f"seed{seed}"
    return Path("runs") / "-".join(filter(None, (stem, name, ending)))


def label_of_end(best: int) -> str:
    """Return what files of private parameters say of the end, whose phases begin at a round."""
    return f"{best}-end"


def is_run_folder(path: Path) -> bool:
    """Return whether fedrec made that folder for a run."""
    return (path / ROUNDS).is_file()


def create(path: Path, overwrite: bool = False) -> Path:
    """Make a run folder, with an empty run log; an existing one is emptied of fedrec's files.

    Raises:
        RunFolderError: As `check_free`.
    """
    check_free(path, overwrite)
    with _writing(path):
        if is_run_folder(path):
            await_end(path)
            _clear(path)
        path.mkdir(parents=True, exist_ok=True)
        write_bytes(path / ROUNDS, b"")
    return path


def check_free(path: Path, overwrite: bool = False) -> None:
    """Check that `create` would take a folder, as far as can be told without writing.

    Raises:
        RunFolderError: If it exists and may not be overwritten, is something else, or cannot be
            written.
    """
    with _writing(path):
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path}: is a file; give --out a folder")
        if not is_run_folder(path):
            if path.exists() and any(path.iterdir()):
                raise RunFolderError(
                    f"{path}: is not empty and is no run folder, so it is left alone; "
                    "choose another --out"
                )
        elif is_held(path / ROUNDS):
            raise RunFolderError(f"{path}: holds a run that is under way")
        elif not overwrite:
            seeds = (path.parent / SEEDS).exists()
            resumed = f"--resume {path.parent if seeds else path}"
            way_out = f"continue it with {resumed}, or extend it with --set rounds.count=N too, "
            raise RunFolderError(
                f"{path}: holds a run already; {way_out * (path / CHECKPOINT).exists()}add "
                "--overwrite or choose another --out"
            )


def await_end(path: Path) -> None:
    """Wait until nobody works in a run folder: the workers of a killed run take a moment to end.

    Raises:
        RunFolderError: If a run is under way in it.
    """
    if is_held(path / ROUNDS):
        raise RunFolderError(f"{path}: its run is under way in another process; wait or stop it")
    if is_held(path, SECONDS_TO_END):
        raise RunFolderError(
            f"{path}: workers of an earlier process are still at work in it; end them first"
        )


def remove_unfinished(path: Path) -> None:
    """Remove the unfinished files that a killed run has left in its folder."""
    for pattern in FILES:
        folder, slash, name = pattern.rpartition("/")
        for unfinished in path.glob(f"{folder}{slash}.{name}.*"):
            unfinished.unlink(missing_ok=True)


def discard_unstarted(path: Path) -> None:
    """Remove a run folder whose run broke off before its first round; others stay."""
    try:
        if not is_run_folder(path):
            path.rmdir()  # fails unless it is empty
        elif not (path / ROUNDS).stat().st_size:
            await_end(path)
            _clear(path)
            path.rmdir()
            if not any(path.parent.glob(f"seed*/{ROUNDS}")):
                (path.parent / SEEDS).unlink()
                path.parent.rmdir()
    except (OSError, RunFolderError):
        return  # something else is in it, or came into it: what broke off the run counts more


def write_result(path: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``result.json`` with the hashes of all other files, so that damage is noticed.

    Returns:
        What was written: values of JSON.
    """
    hashes = {
        file.relative_to(path).as_posix(): sha256_of(file) for file in sorted(_files(path, HASHED))
    }
    written: dict[str, Any] = json_values({"format": FORMAT, **result, "files": hashes})
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


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"{path}: cannot be written ({error.strerror}); choose another --out"
        ) from error


def _files(path: Path, patterns: Sequence[str]) -> list[Path]:
    return [file for pattern in patterns for file in path.glob(pattern) if file.is_file()]


def _clear(path: Path) -> None:
    remove_unfinished(path)
    for file in _files(path, FILES):
        file.unlink()
    for name in (LOCAL, STATE, SOURCE):
        below = [path / name, *(path / name).rglob("*")]
        for folder in sorted(filter(Path.is_dir, below), reverse=True):
            if not any(folder.iterdir()):
                folder.rmdir()
