"""The run log: one JSON object a line, one line a round, only ever appended to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedrec.errors import NumericError, RunFolderError
from fedrec.storage.files import RESTORE, full_disk_named
from fedrec.storage.lock import hold
from fedrec.types import FailedClient

__all__ = [
    "Bytes",
    "RoundLog",
    "RoundRecord",
    "RunLog",
    "Seconds",
    "read_log",
    "rounds_before",
]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class Seconds(_Record):
    """Wall time of a round, in seconds.

    Args:
        train: From the first message to the new parameters.
        evaluate: Of the evaluation; 0 where there was none.
        idle: That a node waited on average for the slowest one while training.
    """

    train: float = Field(0.0, ge=0)
    evaluate: float = Field(0.0, ge=0)
    idle: float = Field(0.0, ge=0)


class Bytes(_Record):
    """Bytes in each direction.

    Args:
        up: To the server.
        down: From the server.
    """

    up: int = Field(0, ge=0)
    down: int = Field(0, ge=0)


class RoundRecord(_Record):
    """What is known of a round. Further keys are kept as they are.

    Args:
        round: The round, from 1 (0: the initial parameters).
        clients: Clients whose updates went into it.
        failures: Clients that failed.
        loss: Mean training loss per example, or None.
        seconds: Wall time.
        bytes: What the clients send and receive to train, each in its own message, before framing
            (`fedrec.aggregation.reduce`); the same for any number of nodes and workers.
        simulation: The messages that the server and the nodes of the simulation exchange, for
            training and evaluation.
        evaluation: Per view (``mixed``, ``global``, ``local``), per part (``valid``, ``test``),
            per metric the value (None where no user has held-out items); None in a round
            without evaluation.

    Example:
        >>> RoundRecord(round=5, clients=2).to_json()[:24]
        '{"round":5,"clients":2,"'
    """

    round: int = Field(ge=0)
    clients: int = Field(ge=0)
    failures: tuple[FailedClient, ...] = ()
    loss: float | None = None
    seconds: Seconds = Seconds()
    bytes: Bytes = Bytes()
    simulation: Bytes = Bytes()
    evaluation: Mapping[str, Mapping[str, Mapping[str, float | None]]] | None = None

    def to_json(self) -> str:
        """One line of JSON, without the line end."""
        return _dumps(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The record of a line.

        Raises:
            RunFolderError: If the line is not the record of a round: the field at fault.
        """
        try:
            return cls.model_validate_json(line)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"]) or "line"
            raise RunFolderError(f"not the record of a round: {where}: {fault['msg']}") from error

    def score(self, part: str, metric: str, view: str = "mixed") -> float | None:
        """The value of a metric, or None.

        Args:
            part: ``valid`` or ``test``.
            metric: Such as ``ndcg@10``.
            view: ``mixed`` (the method's own score), ``global`` or ``local``.
        """
        return ((self.evaluation or {}).get(view) or {}).get(part, {}).get(metric)


class RunLog:
    """Appends records to a run log; each line reaches the operating system before the next.

    A line that an earlier process left cut off is removed first, so that a resumed run never
    glues its first record to it. While it is open, the file is locked (`fedrec.storage.lock`).

    Args:
        path: The file; made if it does not exist.

    Raises:
        RunFolderError: If the file cannot be opened for writing, or another process writes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("ab", buffering=0)
            self._lock = hold(path)
            _mend(path)
            self._hash = hashlib.sha256(path.read_bytes())
        except BlockingIOError as error:
            self._file.close()
            raise RunFolderError(f"{path}: is being written by another process") from error
        except OSError as error:
            raise RunFolderError(
                f"{path}: cannot be written ({error.strerror}); choose another --out"
            ) from error

    def append(self, record: Mapping[str, Any] | RoundRecord) -> None:
        """Write one record.

        Args:
            record: Values of JSON or numpy scalars.

        Raises:
            NumericError: If a value is not finite. Nothing is written then.
            FedRecError: If the disk is full. The line may be cut off then; `RunLog` mends that.
        """
        text = record.to_json() if isinstance(record, RoundRecord) else _dumps(record)
        line = f"{text}\n".encode()
        self._hash.update(line)
        with full_disk_named(self.path):
            while line:  # a disk that is nearly full takes a part
                line = line[self._file.write(line) :]

    @property
    def sha256(self) -> str:
        """The hash of all lines so far."""
        return self._hash.hexdigest()

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        self._file.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class RoundLog:
    """A run log as read.

    Args:
        records: One per complete line.
        torn_line: Number (from 1) of a last line that was cut off and left out, or None.
    """

    records: tuple[dict[str, Any], ...]
    torn_line: int | None = None


def read_log(path: Path) -> RoundLog:
    """Read a run log, also one whose writer was killed.

    Raises:
        RunFolderError: If the file cannot be read, or a line before the last is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read ({error.strerror})") from error
    *lines, tail = content.split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if record is None:
            raise RunFolderError(f"{path}: line {number} is damaged: expected one JSON object")
        records.append(record)
    if tail:
        record = _parse(tail)
        if record is None:
            return RoundLog(tuple(records), torn_line=len(lines) + 1)
        records.append(record)
    return RoundLog(tuple(records))


def rounds_before(path: Path, round: int, sha256: str) -> tuple[list[RoundRecord], int]:
    """Return the records of the rounds before a round, and how many bytes their lines take.

    Args:
        path: The run log.
        round: The round, from 1.
        sha256: The hash of those lines.

    Raises:
        RunFolderError: If a line is missing or is not what was written.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)[: round - 1]
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read ({error.strerror}); {RESTORE}") from error
    if len(lines) < round - 1:
        raise RunFolderError(
            f"{path}: ends with round {len(lines)}, expected {round - 1} rounds or more; {RESTORE}"
        )
    if hashlib.sha256(b"".join(lines)).hexdigest() != sha256:
        raise RunFolderError(f"{path}: is not what this run wrote before round {round}; {RESTORE}")
    return [RoundRecord.from_json(line.decode()) for line in lines], sum(map(len, lines))


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _mend(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        tail = content.rpartition(b"\n")[2]
        if not tail:
            return
        if _parse(tail) is None:
            file.truncate(len(content) - len(tail))
        else:
            file.write(b"\n")
        os.fsync(file.fileno())


def _dumps(record: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(
            record, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_plain
        )
    except ValueError as error:
        where = f"round {record.get('round', '?')}"
        raise NumericError(f"{where}: a value of the run log is not finite") from error
    return text


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be written to a run log")
