"""Reads a run folder, and notices what is missing or damaged in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrec.config.yaml import parse_yaml
from fedrec.errors import ConfigError, MissingExtra, RunFolderError
from fedrec.runs.checkpoint import read_checkpoint
from fedrec.runs.folder import (
    CONFIG,
    FINISHED,
    FORMAT,
    LOCAL,
    MODEL,
    PER_USER,
    RESULT,
    ROUNDS,
    SPLIT,
    is_run_folder,
    result_checksum,
    sha256_of,
)
from fedrec.runs.log import RoundRecord, read_log, rounds_before
from fedrec.runs.split_file import read_split
from fedrec.runs.tally import Tally, described
from fedrec.storage.files import RESTORE, read_arrays
from fedrec.types import FloatArray, Split

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RunFolder", "find"]

HEADER = re.compile(r"# fedrec run folder, format (\d+)\s")
FROM_ROUNDS = (
    "best_round",
    "rounds",
    "metrics",
    "seconds",
    "bytes",
    "simulation",
    "clients_per_second",
)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Reads a run folder, also that of a run that was interrupted.

    Args:
        path: The folder.

    Raises:
        RunFolderError: If it is not a run folder, or one of another version of fedrec.
    """

    path: Path

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise RunFolderError(f"{self.path}: no such folder; give the --out of a run")
        if not is_run_folder(self.path):
            raise RunFolderError(
                f"{self.path}: is not a run folder (it has no {ROUNDS}); give the --out of a run"
            )
        if (self.path / CONFIG).is_file():
            header = HEADER.match(self._text(CONFIG))
            if header is None or int(header[1]) != FORMAT:
                raise RunFolderError(
                    f"{self.path / CONFIG}: its first line does not say 'format {FORMAT}', so the "
                    "folder was written by another version of fedrec; read it with that version, "
                    "or run again with --overwrite"
                )

    def config(self) -> dict[str, Any]:
        """Return the experiment, every default written out."""
        self.verify(CONFIG)
        try:
            document = parse_yaml(self._text(CONFIG))
        except ConfigError as error:
            raise RunFolderError(f"{self.path / CONFIG}: {error}; {RESTORE}") from error
        if not isinstance(document, dict):
            raise RunFolderError(f"{self.path / CONFIG}: holds no sections; {RESTORE}")
        return document

    def torn(self) -> bool:
        """Return whether the last line of the run log was cut off, as by a kill."""
        return read_log(self.path / ROUNDS).torn_line is not None

    def rounds(self) -> list[RoundRecord]:
        """Return the rounds; a last line that was cut off is left out."""
        self.verify(ROUNDS)
        checkpoint = None if self._written() else read_checkpoint(self.path)
        if checkpoint is not None:
            rounds_before(self.path / ROUNDS, checkpoint.record.round, checkpoint.log)
        records = []
        for number, record in enumerate(read_log(self.path / ROUNDS).records, start=1):
            try:
                records.append(RoundRecord.from_json(json.dumps(record)))
            except RunFolderError as error:
                raise RunFolderError(f"{self.path / ROUNDS}: line {number}: {error}") from error
        return records

    def result(self) -> dict[str, Any]:
        """Return the result; what an interrupted run did not write is taken from its rounds."""
        written = self._written()
        complete = written.get("status") in FINISHED or written.get("best_round") is not None
        if complete and written.get("metrics"):
            return written
        config = self.config()
        tally = Tally((config.get("evaluate", {}).get("metrics") or ["ndcg@10"])[0])
        for record in self.rounds():
            tally.add(record)
        kept = {k: v for k, v in written.items() if v is not None and k not in FROM_ROUNDS}
        return {**described(config), "status": "interrupted", **tally.result(), **kept}

    def split(self) -> Split:
        """Return the data of the run: raw ids, and the items of every user."""
        self.verify(SPLIT)
        return read_split(self.path / SPLIT)

    def model(self) -> dict[str, FloatArray]:
        """Return the shared parameters at the best round; ``item``: float32 [n_items, d].

        Raises:
            RunFolderError: If the run was killed before it wrote those of the best round.
        """
        return self._model(self.result().get("best_round"))

    def local(self, per: str = "user") -> dict[str, FloatArray]:
        """Return the private parameters at the best round, of all nodes, sorted by user or client.

        The arrays of a file that the metadata key ``per.<name>`` gives to ``per`` are taken, and
        those without such a key whose length is that of ``ids.<per>``.

        Args:
            per: ``user`` or ``client``.

        Returns:
            ``ids.<per>``, int64 [n], and each private parameter, [n, ...]; empty where the run
            kept none.

        Raises:
            RunFolderError: If two nodes hold the same id, or do not hold the same parameters.
        """
        found = self._local(per, self.result().get("best_round"))
        if found and per in ("user", "client") and (self.path / SPLIT).exists():
            split = self.split()
            n = split.n_users if per == "user" else split.n_clients
            if len(found[f"ids.{per}"]) != n:
                raise RunFolderError(
                    f"{self.path / LOCAL}: holds the private parameters of "
                    f"{len(found[f'ids.{per}'])} of {n} {per}s; {RESTORE}"
                )
        return found

    def per_user(self) -> pd.DataFrame:
        """Return one row a user: ``user`` (raw id), ``client``, ``n_train``, ``test.ndcg@10``, ...

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
        self.verify(PER_USER)
        if not path.is_file():
            raise RunFolderError(f"{path}: is missing; the run did not come to its end")
        try:
            return pd.read_parquet(path, page_checksum_verification=True)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise RunFolderError(f"{path}: is damaged ({reason}); {RESTORE}") from error

    def check_best(self, best: int, latest: int, n_clients: int, private: bool) -> None:
        """Make sure that the best round so far has left everything behind.

        Args:
            best: The best round so far.
            latest: The round of the checkpoint, which may have replaced the model.
            n_clients: All clients of the run.
            private: Whether the clients keep private parameters.

        Raises:
            RunFolderError: Names the file that is missing or damaged.
        """
        self._model(best, latest)
        self.per_user()
        if private and len(self._local("client", best).get("ids.client", ())) != n_clients:
            raise RunFolderError(
                f"{self.path / LOCAL}: the private parameters of round {best}, the best so far, "
                "are missing or not complete; put the folder back from a copy, or run again with "
                "--overwrite"
            )

    def verify(self, name: str) -> None:
        """Make sure that a file is as the run wrote it, where the run came to its end.

        Args:
            name: Relative to the folder.

        Raises:
            RunFolderError: If it is missing, or is not what the run wrote.
        """
        expected = self._written().get("files", {}).get(name)
        if expected is None:
            return
        path = self.path / name
        try:
            if sha256_of(path) == expected:
                return
        except FileNotFoundError:
            raise RunFolderError(f"{path}: is missing; {RESTORE}") from None
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be read ({error.strerror}); {RESTORE}") from error
        raise RunFolderError(f"{path}: is damaged, or not the file that this run wrote; {RESTORE}")

    def _written(self) -> dict[str, Any]:
        """Return the content of ``result.json``; empty where it was not written yet."""
        path = self.path / RESULT
        if not path.exists():
            return {}
        try:
            found = json.loads(self._text(RESULT))
        except ValueError as error:
            raise RunFolderError(f"{path}: is not valid JSON; {RESTORE}") from error
        if not isinstance(found, dict) or found.get("checksum") != result_checksum(found):
            raise RunFolderError(f"{path}: is damaged: its checksum does not match; {RESTORE}")
        return found

    def _model(self, best: int | None, latest: int | None = None) -> dict[str, FloatArray]:
        path = self.path / MODEL
        self.verify(MODEL)
        arrays, about = read_arrays(path)
        if best is not None and about.get("round") not in (str(best), str(latest)):
            raise RunFolderError(
                f"{path}: is of round {about.get('round')}, but the best round is {best}: either "
                "the run was killed before it was written, then continue it: fedrec run --resume "
                f"{self.path}; or {RESTORE}"
            )
        return arrays

    def _local(self, per: str, best: int | None) -> dict[str, FloatArray]:
        index, folder = f"ids.{per}", self.path / LOCAL
        names = [n for n in self._written().get("files", {}) if n.startswith(f"{LOCAL}/")]
        paths = [self.path / n for n in names] or sorted(folder.glob("node-*.safetensors"))
        nodes = []
        for path in paths:
            self.verify(path.relative_to(self.path).as_posix())
            arrays, about = read_arrays(path)
            if index in arrays and about.get("round", str(best)) == str(best):
                nodes.append(_aligned(arrays, about, per))
        if not nodes:
            return {}
        if any(node.keys() != nodes[0].keys() for node in nodes):
            raise RunFolderError(f"{folder}: the nodes hold different parameters")
        merged = {name: np.concatenate([node[name] for node in nodes]) for name in nodes[0]}
        order = np.argsort(merged[index], kind="stable")
        ids = merged[index][order]
        if np.any(ids[1:] == ids[:-1]):
            raise RunFolderError(f"{folder}: two nodes hold the same {per}")
        return {name: array[order] for name, array in merged.items()}

    def _text(self, name: str) -> str:
        path = self.path / name
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise RunFolderError(
                f"{path}: is missing; the run stopped before it was written"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise RunFolderError(f"{path}: cannot be read ({reason}); {RESTORE}") from error


def find(paths: Sequence[Path], refused: list[RunFolderError] | None = None) -> list[RunFolder]:
    """Return the run folders among some paths; a folder stands for those one or two levels below.

    Args:
        paths: Run folders, or folders that hold some.
        refused: Takes the errors of folders below a path that cannot be read; None: they are
            raised.

    Raises:
        RunFolderError: If a path neither is nor holds a run folder.
    """
    found: list[RunFolder] = []
    for path in paths:
        logs = [log for depth in ("*", "*/*") for log in path.glob(f"{depth}/{ROUNDS}")]
        below = sorted(log.parent for log in logs if log.is_file())
        if is_run_folder(path) or not below:
            found.append(RunFolder(path))
            continue
        for each in below:
            try:
                found.append(RunFolder(each))
            except RunFolderError as error:
                if refused is None:
                    raise
                refused.append(error)
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
