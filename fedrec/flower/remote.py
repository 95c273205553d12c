"""Nodes on machines that lack the driver's files: how that is told, and what they get instead.

What they get goes beside the messages, through Ray, and never in one: private values are in it.
"""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from flwr.app import Context, Message

from fedrec.storage.files import content_mark

LOG_OF_ROUNDS = "rounds.jsonl"
RUN, DATA = "run-dir", ("data", "features")


class Sight(NamedTuple):
    """What a worker has of the driver's files.

    Args:
        run: the run folder, and may write there.
        data: the prepared data, and the features of the items.
        code: the code of the run.
    """

    run: bool = True
    data: bool = True
    code: bool = True

    @property
    def lacks(self) -> tuple[str, ...]:
        """What it does not have."""
        parts = {"run folder": self.run, "data": self.data, "code": self.code}
        return tuple(name for name, is_here in parts.items() if not is_here)


@dataclass(frozen=True, slots=True)
class Marks:
    """By what a worker recognizes the driver's files, wherever it is.

    Args:
        token: a file of this start in the run folder; "" where there is no run folder.
        data: of each file of data, its path and `fedrec.storage.files.content_mark`.
    """

    token: str = ""
    data: tuple[tuple[str, str], ...] = ()

    def sight(self, code: bool) -> Sight:
        """Return what this process has of the files.

        Args:
            code: Whether it has the code of the run.
        """
        token = Path(self.token)
        run = not self.token or (token.is_file() and os.access(token.parent, os.W_OK))
        data = all(content_mark(Path(path)) == mark for path, mark in self.data)
        return Sight(run, data, code)


@contextmanager
def marking(node_config: Mapping[str, Any]) -> Iterator[Marks]:
    """Mark the run folder of a run while it is under way.

    Args:
        node_config: Names the files, see `fedrec.flower.launch.launch`.
    """
    out = Path(str(node_config.get(RUN) or ""))
    named = [str(node_config[key]) for key in DATA if node_config.get(key)]
    data = tuple((path, content_mark(Path(path))) for path in named)
    if not (out / LOG_OF_ROUNDS).is_file():
        yield Marks("", data)
        return
    # Named like an unfinished log, it goes with these if the driver is killed.
    token = out / f".{LOG_OF_ROUNDS}.{secrets.token_hex(8)}"
    token.touch()
    try:
        yield Marks(str(token), data)
    finally:
        token.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Opening:
    """What a worker needs once to open a node.

    Args:
        files: the node's files in the run folder: content by path, relative to it; None if the
            worker has the run folder.
        data: by hash, what the node knows of the data; empty if the worker has it.
    """

    files: Mapping[str, bytes] | None
    data: Mapping[str, Any]


class DriverSide(Protocol):
    """Keeps on the driver what nodes elsewhere need, and have written."""

    def opening(self, message: Message, sight: Sight) -> Opening:
        """Return what the node of a message needs on a worker where it was not opened yet."""

    def settle(self, message: Message) -> None:
        """Bring the private state in the run folder to where the node does with a message."""

    def take(self, message: Message, written: Any) -> None:
        """Write into the run folder what the node has written while it answered a message."""


class WorkerSide(Protocol):
    """Runs the client app for nodes that lack the run folder, the data or both."""

    def open(self, context: Context, opening: Opening) -> Context:
        """Put down what a node needs; return its context, which says where."""

    def __call__(self, message: Message, context: Context) -> tuple[Message, Any]:
        """Return the reply to a message, and what the node has written for it."""
