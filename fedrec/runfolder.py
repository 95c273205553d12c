"""The run folder: what a run leaves behind, how it is written and how it is read.

::

    config.yaml            the resolved experiment
    rounds.jsonl           one line a round (`fedrec.runlog`); its presence makes the folder a run
    result.json            scores, times, bytes, digest, versions
    per_user.parquet       one row a user: raw id, client, train items, scores at the best round
    model.safetensors      global parameters at the best round
    local/node-*.safetensors   local parameters at the best round (and the latest), a file a node
    state/node-*/          all local state after the latest round, as the nodes keep it

Every file but the run log is replaced as a whole, so a run that is killed stays readable.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedrec.errors import MissingExtra, RunFolderError
from fedrec.runlog import RoundLog, RoundRecord, read_log, so_far
from fedrec.types import FloatArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FINISHED",
    "RunFolder",
    "check_free",
    "create",
    "discard_unstarted",
    "find",
    "is_run_folder",
    "write_arrays",
    "write_bytes",
    "write_json",
    "write_per_user",
    "write_text",
]

CONFIG = "config.yaml"
ROUNDS = "rounds.jsonl"
RESULT = "result.json"
PER_USER = "per_user.parquet"
MODEL = "model.safetensors"
LOCAL = "local"
STATE = "state"
FINISHED = ("completed", "early_stop")
"""The statuses of a run that came to its end."""
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
            if not overwrite:
                raise RunFolderError(
                    f"{path}: holds a run already; add --overwrite or choose another --out"
                )
        elif path.exists() and any(path.iterdir()):
            raise RunFolderError(
                f"{path}: is not empty and is no run folder, so it is left alone; "
                "choose another --out"
            )
    except OSError as error:
        raise _unwritable(path, error) from error


def discard_unstarted(path: Path) -> None:
    """Remove a run folder again whose run broke off before its first round; others stay."""
    try:
        if is_run_folder(path) and not (path / ROUNDS).stat().st_size:
            _clear(path)
            path.rmdir()
    except OSError:  # something else is in it, or came into it: what broke off the run counts more
        return


def _unwritable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"{path}: cannot be written ({error.strerror}); choose another --out")


def _clear(path: Path) -> None:
    for file in sorted((path / LOCAL).glob("node-*.safetensors")):
        file.unlink()
    for node in sorted((path / STATE).glob("node-*")):
        for file in sorted(node.iterdir()):
            file.unlink()
        node.rmdir()
    for folder in (path / LOCAL, path / STATE):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    for name in (CONFIG, RESULT, PER_USER, MODEL, ROUNDS):
        (path / name).unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file as a whole: a reader sees the old content or the new, never a part."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
        """The global parameters at the best round; ``item``: float32 [n_items, d]."""
        return self._arrays(self.path / MODEL)[0]

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
