"""Reads a run folder, and notices what is missing or damaged in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrec.config.yaml import parse_yaml
from fedrec.data.prepare import open_split
from fedrec.errors import RunFolderError
from fedrec.evaluation.slices import sliced
from fedrec.runs.folder import (
    CONFIG,
    FINISHED,
    FORMAT,
    HEADER,
    LOCAL,
    MODEL,
    PER_USER,
    RESULT,
    ROUNDS,
    SPLIT,
    is_run_folder,
    label_of_end,
    result_checksum,
    sha256_of,
)
from fedrec.runs.log import RoundRecord, read_checkpoint, read_log, rounds_before
from fedrec.runs.tally import Tally, described
from fedrec.storage.files import RESTORE, read_arrays, reading
from fedrec.types import FloatArray, Split

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RunFolder:
    """Reads a run folder, also that of a run that was interrupted.

    Every method raises a `RunFolderError` that names the file which is missing or damaged.

    Raises:
        RunFolderError: If the path is not a run folder, or one of another version of fedrec.
    """

    path: Path

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise RunFolderError(f"{self.path}: no such folder; give the --out of a run")
        if not is_run_folder(self.path):
            raise RunFolderError(
                f"{self.path}: is not a run folder (it has no {ROUNDS}); give the --out of a run"
            )
        config = self.path / CONFIG
        if config.is_file() and not _text(config).startswith(HEADER):
            raise RunFolderError(
                f"{config}: its first line does not say 'format {FORMAT}', so the folder was "
                "written by another version of fedrec; read it with that version, or run again "
                "with --overwrite"
            )

    def config(self) -> dict[str, Any]:
        """Return the experiment, every default written out."""
        text = _text(self.verify(CONFIG))
        with reading(self.path / CONFIG):
            document = parse_yaml(text)
            if not isinstance(document, dict):
                raise ValueError("it holds no sections")
        return document

    def torn(self) -> bool:
        """Return whether the last line of the run log was cut off, as by a kill."""
        log = self.path / ROUNDS
        return len(read_log(log)) < len(log.read_bytes().splitlines())

    def rounds(self) -> list[RoundRecord]:
        """Return the rounds; a last line that was cut off is left out."""
        log = self.verify(ROUNDS)
        checkpoint = None if self._written() else read_checkpoint(self.path)
        if checkpoint is not None:
            rounds_before(log, checkpoint.record.round, checkpoint.log)
        return read_log(log)

    @cached_property
    def result(self) -> dict[str, Any]:
        """The result; what an interrupted run did not write is taken from its rounds."""
        written = self._written()
        complete = written.get("status") in FINISHED or written.get("best_round") is not None
        if complete and written.get("metrics"):
            return written
        config = self.config()
        evaluate = config.get("evaluate", {})
        metric = (evaluate.get("metrics") or ["ndcg@10"])[0]
        chooser = sliced(metric, evaluate.get("choose_on") or "")
        tally = Tally(chooser, rounds=self.rounds())
        stored = {name: value for name, value in written.items() if value is not None}
        return {**described(config), "status": "interrupted", **stored, **tally.result()}

    @cached_property
    def split(self) -> Split:
        """The data of the run: raw ids, and the items of every user."""
        path = self.verify(SPLIT)
        read_arrays(path)  # compares its checksum
        return open_split(path)

    def model(self, best: int | None = None, latest: int | None = None) -> dict[str, FloatArray]:
        """Return the shared parameters at the best round; ``item``: float32 [n_items, d].

        Args:
            best: The best round; None: that of the result.
            latest: Another round that they may be of.

        Raises:
            RunFolderError: Also if the run was killed before it wrote those of the best round.
        """
        path, best = self.verify(MODEL), best or self.result.get("best_round")
        arrays, about = read_arrays(path)
        if best is not None and about.get("round") not in (str(best), str(latest)):
            raise RunFolderError(
                f"{path}: is of round {about.get('round')}, but the best round is {best}: either "
                "the run was killed before it was written, then continue it: fedrec run --resume "
                f"{self.path}; or {RESTORE}"
            )
        return arrays

    def local(self, per: str = "user", best: int | None = None) -> dict[str, FloatArray]:
        """Return the private parameters at the best round, of all nodes, sorted by user or client.

        Args:
            per: ``user``, ``client`` or ``positive``.
            best: The best round; None: that of the result, after the phases of the end.

        Returns:
            ``ids.<per>``, int64 [n], and each private parameter, [n, ...]; empty where the run
            kept none.
        """
        label = str(best or self.result.get("best_round"))
        if best is None and self.result.get("end"):
            label = label_of_end(self.result["best_round"])
        written = [n for n in self._written().get("files", {}) if n.startswith(f"{LOCAL}/")]
        folder = self.path / LOCAL
        there = sorted(f"{LOCAL}/{path.name}" for path in folder.glob("node-*.safetensors"))
        merged = merged_values([self.verify(name) for name in written or there], per, label)
        ids = merged.get(f"ids.{per}")
        if ids is not None and per != "positive" and (self.path / SPLIT).exists():
            split = self.split
            expected = split.n_users if per == "user" else split.n_clients
            if len(ids) != expected:
                raise RunFolderError(
                    f"{folder}: holds the private parameters of {len(ids)} of {expected} {per}s; "
                    f"{RESTORE}"
                )
        return merged

    def per_user(self) -> pd.DataFrame:
        """Return one row per user: raw id, client, train items, metrics at the best round."""
        import pandas as pd

        path = self.verify(PER_USER)
        with reading(path):
            return pd.read_parquet(path, page_checksum_verification=True)

    def verify(self, name: str) -> Path:
        """Return the path of a file; it is as the run wrote it, where the run came to its end."""
        expected, path = self._written().get("files", {}).get(name), self.path / name
        if expected is not None:
            with reading(path):
                if sha256_of(path) != expected:
                    raise ValueError("or not the file that this run wrote")
        return path

    def _written(self) -> dict[str, Any]:
        """Return the content of ``result.json``; empty where it was not written yet."""
        path = self.path / RESULT
        if not path.exists():
            return {}
        with reading(path):
            result = json.loads(_text(path))
            if not isinstance(result, dict) or result.get("checksum") != result_checksum(result):
                raise ValueError("its checksum does not match")
        return result


def merged_values(paths: Sequence[Path], per: str, label: str) -> dict[str, FloatArray]:
    """Return private parameters of all nodes, sorted by their owners.

    Args:
        paths: Files of nodes, as `clients.private_values` writes them.
        per: ``user``, ``client`` or ``positive``.
        label: The round, or the end after it; files of others are left out.

    Returns:
        See `RunFolder.local`.

    Raises:
        RunFolderError: If a file is damaged, or two nodes hold the same owner.
    """
    index, nodes = f"ids.{per}", []
    for path in paths:
        arrays, about = read_arrays(path)
        if index in arrays and about.get("round", label) == label:
            names = [n for n in arrays if n == index or about.get(f"per.{n}") == per]
            nodes.append({n: arrays[n] for n in names})
    if not nodes:
        return {}
    folder = paths[0].parent
    if any(node.keys() != nodes[0].keys() for node in nodes):
        raise RunFolderError(f"{folder}: the nodes hold different parameters")
    merged = {name: np.concatenate([node[name] for node in nodes]) for name in nodes[0]}
    by_id = np.argsort(merged[index], kind="stable")
    if (np.diff(merged[index][by_id]) == 0).any():
        raise RunFolderError(f"{folder}: two nodes hold the same {per}")
    return {name: array[by_id] for name, array in merged.items()}


def find(paths: Sequence[Path], refused: list[RunFolderError] | None = None) -> list[RunFolder]:
    """Return the run folders among some paths; a folder stands for those one or two levels below.

    Args:
        paths: Run folders, or folders that hold some.
        refused: Takes the errors of folders below a path that cannot be read; None: they are
            raised.

    Raises:
        RunFolderError: If a path neither is nor holds a run folder.
    """
    runs: list[RunFolder] = []
    for path in paths:
        logs = [log for depth in ("*", "*/*") for log in path.glob(f"{depth}/{ROUNDS}")]
        below = sorted(log.parent for log in logs if log.is_file())
        if is_run_folder(path) or not below:
            runs.append(RunFolder(path))
            continue
        for each in below:
            try:
                runs.append(RunFolder(each))
            except RunFolderError as error:
                if refused is None:
                    raise
                refused.append(error)
    return runs


def _text(path: Path) -> str:
    with reading(path):
        return path.read_text(encoding="utf-8")
