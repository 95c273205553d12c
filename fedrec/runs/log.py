"""What a run writes after every round: a line of the run log, and a checkpoint.

The log has one JSON object a line and is only ever appended to. The checkpoint, replaced as a
whole, is what the server must know to continue. It is written once the updates of a round are
aggregated, before its evaluation; all that the server writes after it follows from it, so a run
that continues repeats that part with the same bits. It survives the death of processes, not the
loss of power.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, InstanceOf, ValidationError
from pydantic_core import from_json

from fedrec.errors import RunFolderError
from fedrec.runs.folder import CHECKPOINT, FORMAT
from fedrec.runs.origin import Origin
from fedrec.storage.files import RESTORE, full_disk_named, hold, read_arrays, reading, write_arrays
from fedrec.types import FailedClient, State


class _Record(BaseModel, frozen=True, extra="allow", allow_inf_nan=False):
    """Refuses what JSON cannot hold."""


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
    """Bytes to the server (up) and from the server (down)."""

    up: int = Field(0, ge=0)
    down: int = Field(0, ge=0)


class Virtual(_Record):
    """What the virtual clock of ``rounds.devices`` says of a round.

    Args:
        seconds: Virtual seconds from the beginning of the run to the end of the round.
        stragglers: Clients that were asked and are left out, as they would reply too late.
        discarded: Replies that are left out, as they were trained from too old parameters.
        under_way: Clients that have a job when the round ends.
        staleness: How many versions of the parameters were made while an update was under way,
            mean over the updates.
        most_stale: The same of the update for which it is most.
    """

    seconds: float = Field(0.0, ge=0)
    stragglers: int = Field(0, ge=0)
    discarded: int = Field(0, ge=0)
    under_way: int = Field(0, ge=0)
    staleness: float = Field(0.0, ge=0)
    most_stale: int = Field(0, ge=0)


class RoundRecord(_Record):
    """What is known of a round. Further keys are kept as they are.

    Args:
        round: The round, from 1 (0: the initial parameters).
        clients: Clients whose updates went into it.
        failures: Clients that failed.
        lost: Nodes that did not answer in time or replied what is of no use, and why.
        missing_users: Users who are not in the evaluation, as their nodes did not answer.
        loss: Mean training loss per example, or None.
        seconds: Wall time.
        bytes: What the clients send and receive to train, each in its own message, before framing:
            up, the length of each client's payload (`fedrec.aggregation.codec`); down, every value
            as float32. With a secure sum, the masked vector in place of the payload, and keys and
            shares. The same for any number of nodes and workers. On a virtual clock, up are those
            of the updates that are used, and down are counted for all jobs that end in the round,
            also those whose updates are not used.
        simulation: The messages that the server and the nodes of the simulation exchange, for
            training and evaluation.
        virtual: What the virtual clock says; None where none runs.
        evaluation: Per view (``mixed``, ``global``, ``local``), per part (``valid``, ``test``),
            per metric the value (None where no user has held-out items); None in a round
            without evaluation.

    Example:
        >>> RoundRecord(round=5, clients=2).model_dump_json()[:24]
        '{"round":5,"clients":2,"'
    """

    round: int = Field(ge=0)
    clients: int = Field(ge=0)
    failures: tuple[FailedClient, ...] = ()
    lost: tuple[FailedClient, ...] = ()
    missing_users: int = Field(0, ge=0)
    loss: float | None = None
    seconds: Seconds = Seconds()
    bytes: Bytes = Bytes()
    simulation: Bytes = Bytes()
    virtual: Virtual | None = None
    evaluation: Mapping[str, Mapping[str, Mapping[str, float | None]]] | None = None

    def score(self, part: str, metric: str, view: str = "mixed") -> float | None:
        """Return the value of a metric such as ``ndcg@10`` in a part and a view, or None."""
        return ((self.evaluation or {}).get(view) or {}).get(part, {}).get(metric)


class RunLog:
    """Appends records to a run log; each line reaches the operating system before the next.

    The file is made if it does not exist, and locked while it is open.

    Raises:
        RunFolderError: If the file cannot be opened for writing, or another process writes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("ab", buffering=0)
            self._lock = hold(path)
            self._hash = hashlib.sha256(path.read_bytes())
        except BlockingIOError as error:
            self._file.close()
            raise RunFolderError(f"{path}: is being written by another process") from error
        except OSError as error:
            raise RunFolderError(
                f"{path}: cannot be written ({error.strerror}); choose another --out"
            ) from error

    def append(self, record: RoundRecord) -> None:
        """Write one record.

        Raises:
            FedRecError: If the disk is full. The line may be cut off then.
        """
        line = f"{record.model_dump_json()}\n".encode()
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


def read_log(path: Path) -> list[RoundRecord]:
    """Read a run log, also one whose writer was killed; a last line that was cut off is left out.

    Raises:
        RunFolderError: If the file cannot be read, or a line before the last is damaged.
    """
    with reading(path):
        *lines, last = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate([*lines, *([last] if last else [])], start=1):
        try:
            records.append(RoundRecord.model_validate_json(line))
        except ValidationError as error:
            if number > len(lines):
                break
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"])) or "line"
            raise RunFolderError(
                f"{path}: line {number} is not the record of a round: {where}: {fault['msg']}; "
                f"{RESTORE}"
            ) from error
    return records


def rounds_before(path: Path, round: int, sha256: str) -> tuple[list[RoundRecord], int]:
    """Return the records of the rounds before a round, and how many bytes their lines take.

    Raises:
        RunFolderError: If a line is missing, or they do not have that hash.
    """
    with reading(path):
        lines = path.read_bytes().splitlines(keepends=True)[: round - 1]
    if len(lines) < round - 1:
        raise RunFolderError(
            f"{path}: ends with round {len(lines)}, expected {round - 1} rounds or more; {RESTORE}"
        )
    if hashlib.sha256(b"".join(lines)).hexdigest() != sha256:
        raise RunFolderError(f"{path}: is not what this run wrote before round {round}; {RESTORE}")
    with reading(path):
        return [RoundRecord.model_validate_json(line) for line in lines], sum(map(len, lines))


class Checkpoint(_Record):
    """The server after the updates of a round were applied.

    Args:
        record: What is known of the round, without its evaluation.
        params: The shared parameters.
        state: What the strategy remembers.
        evaluates: Whether the round is evaluated.
        origin: What the run is made from.
        started: When the run was started first, ISO 8601.
        resumed: The rounds at which it was continued.
        node_states: Per node, as text of its number: the requests (round and attempt) that
            changed the private state of its clients last, and the checksum of that state.
        log: Hash of the lines of the run log before this round.
        run: The name of the run, under which nodes keep private state.
    """

    record: RoundRecord
    params: Mapping[str, Any] = Field(exclude=True)
    state: InstanceOf[State] = Field(exclude=True)
    evaluates: bool
    origin: Origin
    started: str
    resumed: tuple[int, ...] = ()
    node_states: Mapping[str, tuple[tuple[tuple[int, int], ...], int]] = {}
    log: str = ""
    run: str = ""


def name_of_run(checkpoint: Checkpoint | None, start: str) -> str:
    """Return the name that a run keeps: the id of its first start with a checkpoint, or of this."""
    return (checkpoint.run if checkpoint else "") or start


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint of a run folder."""
    arrays = {f"params/{name}": value for name, value in checkpoint.params.items()}
    arrays |= {f"state/{name}": value for name, value in checkpoint.state.arrays.items()}
    about = {
        "format": FORMAT,
        "values": checkpoint.state.values,
        **checkpoint.model_dump(mode="json"),
    }
    write_arrays(folder / CHECKPOINT, arrays, {"checkpoint": json.dumps(about)}, durable=False)


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the checkpoint of a run folder; None if no round was finished.

    Raises:
        RunFolderError: If it is damaged, or of another format.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    arrays, texts = read_arrays(path)
    both = State(arrays)
    try:
        about = dict(from_json(texts["checkpoint"]))
        if about.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        values = {name: dict(part) for name, part in about.pop("values").items()}
        state = State(both.below("state/"), values)
        return Checkpoint(params=both.below("params/"), state=state, **about)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise RunFolderError(
            f"{path}: is not a checkpoint of this version of fedrec ({reason}); continue with the "
            "version that wrote it, or run again with --overwrite"
        ) from error
