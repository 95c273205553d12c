"""What the server must know to continue after a round, in one file that is replaced as a whole.

A checkpoint is written once the updates of a round are aggregated, before its evaluation.
Everything the server writes after it (the line of the run log, the best model, the values per
user) follows from it, so a run that continues repeats that part and gets the same bits.
It survives the death of processes, not the loss of power.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrec.errors import RunFolderError
from fedrec.runs.folder import CHECKPOINT, FORMAT
from fedrec.runs.log import RoundRecord
from fedrec.storage.files import read_arrays, write_arrays
from fedrec.types import Params, State

__all__ = ["Checkpoint", "Origin", "read_checkpoint", "write_checkpoint"]

ABOUT = "checkpoint"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a run is made from; a run continues only with the same.

    Args:
        config: The experiment, as values of JSON.
        data: Hash of the prepared data.
        code: Hash of fedrec's code.
        executor: What trains the clients.
        nodes: Among how many nodes the clients are dealt.
        sources: Hash of each source file of plug-ins that are not fedrec's own.
    """

    config: Mapping[str, Any]
    data: str
    code: str
    executor: str
    nodes: int
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The server after the updates of a round were applied.

    Args:
        record: What is known of the round, without its evaluation.
        params: The shared parameters.
        state: What the strategy remembers.
        evaluates: Whether the round is evaluated.
        origin: What the run is made from.
        started: When the run was started first, ISO 8601.
        resumed: The rounds at which it was continued.
        node_states: Per node, as text of its number: the last round that changed the private
            state of its clients, and the checksum of that state.
        log: Hash of the lines of the run log before this round.
    """

    record: RoundRecord
    params: Params
    state: State
    evaluates: bool
    origin: Origin
    started: str
    resumed: tuple[int, ...] = ()
    node_states: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    log: str = ""


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint of a run folder.

    Args:
        folder: The run folder.
        checkpoint: What is written.
    """
    arrays = {f"params/{name}": value for name, value in checkpoint.params.items()}
    arrays |= {f"state/{name}": value for name, value in checkpoint.state.arrays.items()}
    about = {
        "format": FORMAT,
        "record": checkpoint.record.model_dump(mode="json"),
        "values": checkpoint.state.values,
        "evaluates": checkpoint.evaluates,
        "origin": dataclasses.asdict(checkpoint.origin),
        "started": checkpoint.started,
        "resumed": checkpoint.resumed,
        "node_states": checkpoint.node_states,
        "log": checkpoint.log,
    }
    write_arrays(folder / CHECKPOINT, arrays, {ABOUT: json.dumps(about)}, durable=False)


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the checkpoint of a run folder; None if no round was finished.

    Args:
        folder: The run folder.

    Raises:
        RunFolderError: If it is damaged, or of another format.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    arrays, metadata = read_arrays(path)
    try:
        about = json.loads(metadata[ABOUT])
        if about["format"] != FORMAT:
            raise RunFolderError(
                f"{path}: has format {about['format']}, expected {FORMAT}: it was written by "
                "another version of fedrec; continue with that version, or run again with "
                "--overwrite"
            )
        split = {
            prefix: {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
            for prefix in ("params/", "state/")
        }
        return Checkpoint(
            record=RoundRecord.model_validate(about["record"]),
            params=split["params/"],
            state=State(split["state/"], about["values"]),
            evaluates=bool(about["evaluates"]),
            origin=Origin(**about["origin"]),
            started=str(about["started"]),
            resumed=tuple(about["resumed"]),
            node_states={n: (int(r), int(s)) for n, (r, s) in about["node_states"].items()},
            log=str(about["log"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{path}: is not a checkpoint of this version of fedrec ({type(error).__name__}: "
            f"{error}); continue with the version that wrote it, or run again with --overwrite"
        ) from error
