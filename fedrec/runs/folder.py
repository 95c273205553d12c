"""The run folder: what a run leaves behind, how it is written and how it is read.

::

    config.yaml            the resolved experiment
    rounds.jsonl           one line a round (`fedrec.runs.log`); its presence makes the folder a run
    result.json            scores, times, bytes, digest, versions
    per_user.parquet       one row a user: raw id, client, train items, scores at the best round
    model.safetensors      global parameters at the best round
    checkpoint.safetensors what the server must know to go on after the latest round
    local/node-*.safetensors   local parameters at the best round (and the latest), a file a node
    state/node-*/          all local state after the latest round, as the nodes keep it

Every file but the run log is replaced as a whole, so a run that is killed stays readable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from safetensors import SafetensorError, safe_open

from fedrec.errors import MissingExtra, RunFolderError
from fedrec.runs.log import RoundLog, RoundRecord, read_log, so_far
from fedrec.storage.files import remove_rests, write_bytes
from fedrec.storage.lock import await_idle, is_held
from fedrec.types import FloatArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "FINISHED",
    "RESULT",
    "ROUNDS",
    "RunFolder",
    "await_end",
    "check_free",
    "create",
    "discard_unstarted",
    "find",
    "is_run_folder",
    "remove_unfinished",
    "write_per_user",
]

CONFIG = "config.yaml"
ROUNDS = "rounds.jsonl"
RESULT = "result.json"
PER_USER = "per_user.parquet"
MODEL = "model.safetensors"
CHECKPOINT = "checkpoint.safetensors"
LOCAL = "local"
STATE = "state"
FINISHED = ("completed", "early_stop")
"""The statuses of a run that came to its end."""
SECONDS_TO_END = 30.0
FROM_ROUNDS = ("best_round", "rounds", "metrics", "seconds", "bytes", "clients_per_second")


def is_run_folder(path: Path) -> bool:
    """Whether fedrec made that folder for a run."""
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
    """See whether `create` would take a folder, as far as can be told without writing.

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
                goes_on = (path / CHECKPOINT).exists() and not _is_finished(path)
                way_out = f"continue it with --resume {path}, " if goes_on else ""
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
    """Remove the halves of files that a killed run has left in its folder."""
    names = (CONFIG, RESULT, PER_USER, MODEL, CHECKPOINT, ROUNDS, f"{LOCAL}/node-*")
    for name in names:
        remove_rests(path / name)
    for node in (path / STATE).glob("node-*"):
        remove_rests(node / "*")


def discard_unstarted(path: Path) -> None:
    """Remove a run folder again whose run broke off before its first round; others stay."""
    try:
        if is_run_folder(path) and not (path / ROUNDS).stat().st_size:
            await_end(path)
            _clear(path)
            path.rmdir()
    except (OSError, RunFolderError):
        return  # something else is in it, or came into it: what broke off the run counts more


def _unwritable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"{path}: cannot be written ({error.strerror}); choose another --out")


def _is_finished(path: Path) -> bool:
    try:
        return json.loads((path / RESULT).read_text(encoding="utf-8")).get("status") in FINISHED
    except (OSError, ValueError, AttributeError):
        return False


def _clear(path: Path) -> None:
    remove_unfinished(path)
    for file in sorted((path / LOCAL).glob("node-*.safetensors")):
        file.unlink()
    for node in sorted((path / STATE).glob("node-*")):
        for file in sorted(node.iterdir()):
            file.unlink()
        node.rmdir()
    for folder in (path / LOCAL, path / STATE):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    for name in (CONFIG, RESULT, PER_USER, MODEL, CHECKPOINT, ROUNDS):
        (path / name).unlink(missing_ok=True)


def write_per_user(folder: Path, columns: Mapping[str, FloatArray]) -> None:
    """Replace ``per_user.parquet`` of a run folder.

    Args:
        folder: The run folder.
        columns: One value per user each: ``user``, ``client``, ``n_train``, ``test.ndcg@10``, ...

    Raises:
        MissingExtra: If pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtra("pyarrow, for per-user results,", "sim") from error
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), sink)
    write_bytes(folder / PER_USER, sink.getvalue().to_pybytes())


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Reads a run folder, also that of a run that was interrupted.

    Args:
        path: The folder.

    Raises:
        RunFolderError: If it is not a run folder.
    """

    path: Path

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise RunFolderError(f"{self.path}: no such folder; give the --out of a run")
        if not is_run_folder(self.path):
            raise RunFolderError(
                f"{self.path}: is not a run folder (it has no {ROUNDS}); give the --out of a run"
            )

    def config(self) -> dict[str, Any]:
        """The experiment, every default written out."""
        text = self._read(CONFIG)
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RunFolderError(f"{self.path / CONFIG}: is not valid YAML") from error
        if not isinstance(document, dict):
            raise RunFolderError(f"{self.path / CONFIG}: expected a mapping with sections")
        return document

    def log(self) -> RoundLog:
        """The run log as it lies on disk."""
        return read_log(self.path / ROUNDS)

    def rounds(self) -> list[RoundRecord]:
        """The rounds; a last line that was cut off is left out."""
        records = []
        for number, record in enumerate(self.log().records, start=1):
            try:
                records.append(RoundRecord.from_json(json.dumps(record)))
            except RunFolderError as error:
                raise RunFolderError(f"{self.path / ROUNDS}: line {number}: {error}") from error
        return records

    def result(self) -> dict[str, Any]:
        """The result; what an interrupted run did not come to write is taken from its rounds.

        Of such a run, ``best_round`` and ``metrics`` are those of the round with the best
        validation score so far, the earliest of equals.
        """
        rounds = self.rounds()
        found: dict[str, Any] = {}
        if (self.path / RESULT).exists():
            try:
                found = json.loads(self._read(RESULT))
            except ValueError as error:
                raise RunFolderError(f"{self.path / RESULT}: is not valid JSON") from error
        told = found.get("status") in FINISHED or found.get("best_round") is not None
        if told and found.get("metrics"):
            return found
        known = {k: v for k, v in found.items() if v is not None and k not in FROM_ROUNDS}
        return {**so_far(self.config(), rounds), **known}

    def model(self) -> dict[str, FloatArray]:
        """The global parameters at the best round; ``item``: float32 [n_items, d].

        Raises:
            RunFolderError: If the run was killed before it wrote those of the best round.
        """
        arrays, about = self._arrays(self.path / MODEL)
        best = self.result().get("best_round")
        if best is not None and about.get("round", str(best)) != str(best):
            raise RunFolderError(
                f"{self.path / MODEL}: is of round {about['round']}, but the best round is {best}: "
                f"the run was killed before it was written; continue it: fedrec run --resume "
                f"{self.path}"
            )
        return arrays

    def local(self, per: str = "user") -> dict[str, FloatArray]:
        """The local parameters at the best round, of all nodes, sorted by user or client.

        The arrays of a file that the metadata key ``per.<name>`` gives to ``per`` are taken, and
        those without such a key whose length is that of ``ids.<per>``.

        Args:
            per: ``user`` or ``client``.

        Returns:
            ``ids.<per>``, int64 [n], and each local parameter, [n, ...]; empty where the run
            kept none.

        Raises:
            RunFolderError: If two nodes hold the same id, or do not hold the same parameters.
        """
        index = f"ids.{per}"
        nodes = []
        best = str(self.result().get("best_round"))
        for path in sorted((self.path / LOCAL).glob("node-*.safetensors")):
            arrays, about = self._arrays(path)
            if index in arrays and about.get("round", best) == best:
                nodes.append(_aligned(arrays, about, per))
        if not nodes:
            return {}
        if any(node.keys() != nodes[0].keys() for node in nodes):
            raise RunFolderError(f"{self.path / LOCAL}: the nodes hold different parameters")
        merged = {name: np.concatenate([node[name] for node in nodes]) for name in nodes[0]}
        order = np.argsort(merged[index], kind="stable")
        ids = merged[index][order]
        if np.any(ids[1:] == ids[:-1]):
            raise RunFolderError(f"{self.path / LOCAL}: two nodes hold the same {per}")
        return {name: array[order] for name, array in merged.items()}

    def per_user(self) -> pd.DataFrame:
        """One row a user: ``user`` (raw id), ``client``, ``n_train``, ``test.ndcg@10``, ...

        Raises:
            MissingExtra: If pandas or pyarrow is not installed.
            RunFolderError: If the run did not come to write it.
        """
        try:
            import pandas as pd
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise MissingExtra(f"{error.name}, for per-user results,", "sim") from error
        path = self.path / PER_USER
        if not path.exists():
            raise RunFolderError(f"{path}: is missing; the run did not come to its end")
        try:
            return pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{path}: cannot be read: {error}") from error

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise RunFolderError(
                f"{self.path / name}: is missing; the run stopped before it was written"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise RunFolderError(f"{self.path / name}: cannot be read: {error}") from error

    def _arrays(self, path: Path) -> tuple[dict[str, FloatArray], dict[str, str]]:
        if not path.exists():
            raise RunFolderError(f"{path}: is missing; the run stopped before it was written")
        try:
            with safe_open(path, framework="numpy") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise RunFolderError(f"{path}: cannot be read: {error}") from error


def find(paths: list[Path]) -> list[RunFolder]:
    """The run folders among some paths; a folder stands for those in it and one level below.

    Raises:
        RunFolderError: If a path neither is nor holds a run folder.
    """
    found: list[RunFolder] = []
    for path in paths:
        logs = [log for depth in ("*", "*/*") for log in path.glob(f"{depth}/{ROUNDS}")]
        below = sorted(log.parent for log in logs if log.is_file())
        if is_run_folder(path) or not below:
            found.append(RunFolder(path))
        else:
            found += [RunFolder(each) for each in below]
    return found


def _aligned(
    arrays: Mapping[str, FloatArray], about: Mapping[str, str], per: str
) -> dict[str, FloatArray]:
    ids = arrays[f"ids.{per}"]
    return {
        name: array
        for name, array in arrays.items()
        if name == f"ids.{per}"
        or (
            not name.startswith("ids.")
            and about.get(f"per.{name}", per) == per
            and len(array) == len(ids)
        )
    }
