"""What a run leaves behind after every round, and all other files of arrays."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from types import ModuleType
from typing import ClassVar

import numpy as np

from fedrec.errors import FedRecError, RunFolderError
from fedrec.runs import log
from fedrec.runs.folder import ROUNDS
from fedrec.runs.log import (
    Checkpoint,
    RoundRecord,
    RunLog,
    read_checkpoint,
    read_log,
    rounds_before,
    write_checkpoint,
)
from fedrec.runs.origin import Origin
from fedrec.storage import files as storage
from fedrec.storage.files import map_arrays, write_arrays
from fedrec.testing.trial import as_bytes
from fedrec.types import FailedClient, State
from tests.fuzz.files import Files, files_below, opened, write_files
from tests.fuzz.targets.base import Target

_SHA256 = "@sha256"
_READING = ("check_regular", "reading", "read_arrays", "map_arrays")


def _records() -> list[RoundRecord]:
    scores = {"mixed": {"valid": {"ndcg@10": 0.25}, "test": {"ndcg@10": None}}}
    failures = (FailedClient(client="4", reason="no power"),)
    return [
        RoundRecord(round=1, clients=6, loss=0.5),
        RoundRecord(round=2, clients=5, failures=failures, evaluation=scores),
    ]


class CheckpointTarget(Target):
    """The checkpoint of a server, with a checksum that is right or damaged."""

    name = "checkpoint"
    decoders: ClassVar[Mapping[ModuleType, Sequence[str]]] = {
        log: ("read_checkpoint",),
        storage: _READING,
    }
    documented: ClassVar[tuple[type[FedRecError], ...]] = (RunFolderError,)

    def valid(self) -> Sequence[Files]:
        """Return checkpoints with and without what a strategy remembers."""
        about = ("data", "catalogue", "weights", "code", "executor")
        origin = Origin(
            config={"seed": 0}, nodes=2, sources={"mine.py": "a"}, **dict.fromkeys(about, "b")
        )
        checkpoint = Checkpoint(
            record=_records()[-1],
            params={"item": np.ones((3, 2), np.float32), "head": np.ones(2, np.float32)},
            state=State(),
            evaluates=True,
            origin=origin,
            started="2026-01-02T03:04:05",
        )
        remembered = State(
            {"strategy/m": np.ones((3, 2)), "k": np.arange(2)}, {"strategy": {"t": 3}}
        )
        states = {"0": (((2, 1),), 5), "1": (((1, 1), (1, 2)), 2**64 - 1)}
        full = {"state": remembered, "node_states": states, "resumed": (1,), "log": "c", "run": "d"}
        seeds: list[Files] = []
        for each in (checkpoint, checkpoint.model_copy(update=full)):
            write_files(self.folder, {})
            write_checkpoint(self.folder, each)
            seeds += [files_below(self.folder), opened(files_below(self.folder))]
        return seeds

    def run(self, files: Files) -> None:
        """Read a checkpoint; what is read can be written, and read as the same."""
        write_files(self.folder, files)
        checkpoint = read_checkpoint(self.folder)
        if checkpoint is not None:
            write_checkpoint(self.folder, checkpoint)
            again = read_checkpoint(self.folder)
            assert again is not None
            assert again.model_dump_json() == checkpoint.model_dump_json()
            assert as_bytes(again.state.arrays) == as_bytes(checkpoint.state.arrays)
            assert json.dumps(again.state.values) == json.dumps(checkpoint.state.values)


class LogTarget(Target):
    """The run log, of which all lines but the last are as they were written."""

    name = "log"
    decoders: ClassVar[Mapping[ModuleType, Sequence[str]]] = {log: ("read_log", "rounds_before")}
    documented: ClassVar[tuple[type[FedRecError], ...]] = (RunFolderError,)

    def valid(self) -> Sequence[Files]:
        """Return a log of two rounds, and one without any."""
        write_files(self.folder, {})
        with closing(RunLog(self.folder / ROUNDS)) as opened_log:
            for record in _records():
                opened_log.append(record)
        contents = ((self.folder / ROUNDS).read_bytes(), b"")
        hashes = [hashlib.sha256(content).hexdigest().encode() for content in contents]
        return [{ROUNDS: c, _SHA256: h} for c, h in zip(contents, hashes, strict=True)]

    def run(self, files: Files) -> None:
        """Read the rounds, and those before each of them."""
        write_files(self.folder, files)
        path = self.folder / ROUNDS
        records = read_log(path)
        lines = path.read_bytes().splitlines(keepends=True)
        for number in range(1, min(len(records), 3) + 2):
            sha256 = hashlib.sha256(b"".join(lines[: number - 1])).hexdigest()
            before, _ = rounds_before(path, number, sha256)
            assert len(before) == number - 1
        rounds_before(path, len(lines) + 1, files.get(_SHA256, b"").decode(errors="replace"))


class MappedTarget(Target):
    """Files of arrays that are mapped and not compared with their checksum."""

    name = "mapped"
    decoders: ClassVar[Mapping[ModuleType, Sequence[str]]] = {storage: _READING}
    documented: ClassVar[tuple[type[FedRecError], ...]] = (RunFolderError,)

    def valid(self) -> Sequence[Files]:
        """Return a file with arrays of every type that can be mapped, and one without arrays."""
        arrays = {kind: np.ones((3, 2), kind) for kind in ("int64", "float64", "float32", "bool")}
        write_files(self.folder, {})
        write_arrays(self.folder / "arrays", arrays, {"texts": "{}"})
        write_arrays(self.folder / "none", {}, {"texts": "{}"})
        return [{"arrays": content} for content in files_below(self.folder).values()]

    def run(self, files: Files) -> None:
        """Map the arrays, and read all of their values."""
        write_files(self.folder, files)
        arrays, _ = map_arrays(self.folder / "arrays")
        for array in arrays.values():
            array.tobytes()
