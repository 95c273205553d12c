"""Everything fedrec raises on purpose.

::

    FedRecError                 a message for the user: what came, what was expected, the way out
    ├── ConfigError             a field of the experiment
    ├── DataError               a file, a line, a column of the data
    ├── MissingExtra            an optional part is not installed
    ├── EngineError             an engine (serial, Ray, Flower) could not start or broke off
    ├── RunFolderError          a run folder that exists, cannot be written or cannot be read
    ├── ProtocolError           a message that breaks the contract between server and clients
    ├── NumericError            overflow or a non-finite value in an aggregation
    └── ClientFailure           a client failed: names round, client and stage

The command line prints the message in one line and exits with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ClientFailure",
    "ConfigError",
    "DataError",
    "EngineError",
    "FedRecError",
    "MissingExtra",
    "NumericError",
    "ProtocolError",
    "RunFolderError",
    "did_you_mean",
]


class FedRecError(Exception):
    """Base of all errors meant for the user."""


class ConfigError(FedRecError, ValueError):
    """A field of the experiment is unknown, of the wrong type or out of range."""


class DataError(FedRecError):
    """The data cannot be read, or cannot be used as configured."""


class MissingExtra(FedRecError):
    """An optional part of fedrec is used but not installed.

    Args:
        part: What was asked for, in the user's words.
        extra: The extra of the distribution that brings it.
    """

    def __init__(self, part: str, extra: str) -> None:
        super().__init__(f"{part} is not installed; run: pip install 'fedrec[{extra}]'")


class EngineError(FedRecError):
    """An engine could not start, or broke off."""


class RunFolderError(FedRecError):
    """A run folder exists already, cannot be written, or is not one."""


class ProtocolError(FedRecError):
    """A message breaks the contract between server and clients."""


class NumericError(FedRecError):
    """A value is not finite, or a fixed-point sum overflows."""


class ClientFailure(FedRecError):
    """A client failed.

    Args:
        round: The round in which it failed.
        client: The client id, or a description of the group of clients.
        stage: What was being done: ``train``, ``evaluate``, ...
        reason: The cause, one line.
    """

    def __init__(self, round: int, client: str, stage: str, reason: str) -> None:
        super().__init__(f"round {round}, client {client}, {stage}: {reason}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the nearest known word, or the list of all.

    Args:
        word: What came.
        known: What would have been accepted.

    Returns:
        A suffix for an error message; starts with a space.
    """
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f" (did you mean '{near[0]}'?)"
    return f" (known: {', '.join(names)})" if names else " (none is known)"
