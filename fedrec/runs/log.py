"""The run log: one JSON object a line, one line a round, only ever appended to."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedrec.errors import NumericError, RunFolderError
from fedrec.storage.lock import hold
from fedrec.types import FailedClient

__all__ = [
    "Bytes",
    "RoundLog",
    "RoundRecord",
    "RunLog",
    "Seconds",
    "TornLine",
    "cut",
    "read_log",
    "read_rounds",
    "so_far",
]


class TornLine(UserWarning):
    """The last line of a run log was cut off, as by a kill in the middle of writing it."""


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
    """Bytes on the wire in a round.

    Args:
        up: From the nodes to the server.
        down: From the server to the nodes.
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
        bytes: Traffic.
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
            self._file = path.open("a", encoding="utf-8")
            self._lock = hold(path)
            _mend(path)
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
        """
        line = record.to_json() if isinstance(record, RoundRecord) else _dumps(record)
        self._file.write(line + "\n")
        self._file.flush()

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


def cut(path: Path, round: int) -> None:
    """Remove the line of a round and all that follows, whole or not.

    Args:
        path: The run log.
        round: The round, from 1.

    Raises:
        RunFolderError: If the rounds before it are not all there.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
        kept = lines[: round - 1]
        for number, line in enumerate(kept, start=1):
            record = _parse(line) if line.endswith(b"\n") else None
            if record is None or record.get("round") != number:
                raise RunFolderError(f"{path}: line {number} is not the record of round {number}")
        if len(kept) < round - 1:
            raise RunFolderError(
                f"{path}: ends with round {len(kept)}, expected {round - 1} rounds or more"
            )
        os.truncate(path, sum(map(len, kept)))
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be written ({error.strerror})") from error


def read_rounds(path: Path) -> list[dict[str, Any]]:
    """The records of a run log; a last line that was cut off is left out with a `TornLine`.

    Raises:
        RunFolderError: As `read_log`.
    """
    log = read_log(path)
    if log.torn_line is not None:
        message = f"{path}: line {log.torn_line} was cut off and is left out"
        warnings.warn(message, TornLine, stacklevel=2)
    return list(log.records)


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


def so_far(config: Mapping[str, Any], rounds: Sequence[RoundRecord]) -> dict[str, Any]:
    """What can be said of a run that did not come to write its result.

    Args:
        config: Its experiment.
        rounds: Its rounds so far.

    Returns:
        As ``result.json``, at the round with the best validation score, the earliest of equals.
    """
    metrics = config.get("evaluate", {}).get("metrics") or ["ndcg@10"]
    judged = [(score, r) for r in rounds if (score := r.score("valid", metrics[0])) is not None]
    best = max(judged, key=lambda pair: pair[0])[1] if judged else None
    views = dict((best.evaluation if best else None) or {})
    own = views.pop("mixed", {})
    part = {name: _name(config, name) for name in ("data", "model", "personalization", "strategy")}
    train, evaluate = (sum(getattr(r.seconds, k) for r in rounds) for k in ("train", "evaluate"))
    return {
        **part,
        "name": " + ".join(part[k] for k in ("personalization", "model", "strategy")),
        "seed": config.get("seed"),
        "protocol": config.get("data", {}).get("protocol", "unknown"),
        "status": "interrupted",
        "best_round": best.round if best else None,
        "rounds": rounds[-1].round if rounds else 0,
        "metrics": {
            "valid": dict(own.get("valid", {})),
            "test": dict(own.get("test", {})),
            "views": {view: dict(parts.get("test", {})) for view, parts in views.items()},
        },
        "seconds": {"train": train, "evaluate": evaluate, "total": train + evaluate},
        "clients_per_second": sum(r.clients for r in rounds) / train if train else None,
        "bytes": {k: sum(getattr(r.bytes, k) for r in rounds) for k in ("up", "down")},
    }


def _name(config: Mapping[str, Any], section: str) -> str:
    value = config.get(section)
    return str(value.get("name", "?") if isinstance(value, Mapping) else value or "?")
