"""The errors that fedrec raises on purpose.

::

    FedRecError                 a message for the user: what came, what was expected, the way out
    ├── ConfigError             a field of the experiment
    ├── DataError               a file, a line, a column of the data
    ├── MissingExtra            an optional part is not installed
    ├── EngineError             an engine (serial, Ray, Flower) could not start or broke off
    ├── RunFolderError          a run folder that exists, cannot be written or cannot be read
    ├── ProtocolError           a message that breaks the contract between server and clients
    ├── NumericError            overflow or a non-finite value in an aggregation
    ├── TooFewClients           too many clients of a round have dropped out
    └── ClientFailure           a client failed: names round, client and stage

The command line prints the message in one line and exits with 2.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

MAX_NAMES = 20
MODERATE = 1e6
"""Values below it are not those of a diverging run."""


class FedRecError(Exception):
    """Base of all errors meant for the user."""


class Fault(NamedTuple):
    """What is wrong with one field of the configuration.

    Args:
        where: The dotted field; "" for the whole.
        what: What is wrong with it.
    """

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class ConfigError(FedRecError, ValueError):
    """Fields of the experiment are unknown, of the wrong type or out of range.

    Args:
        faults: What is wrong, one line each.
    """

    def __init__(self, *faults: str | Fault) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = tuple(Fault("", each) if isinstance(each, str) else each for each in faults)


class DataError(FedRecError):
    """The data cannot be read, or cannot be used as configured."""


class MissingExtra(FedRecError):
    """An optional part of fedrec is used but not installed.

    Args:
        part: What was asked for, in the user's words.
        extra: The extra of the distribution that brings it.
        command: What installs it instead, where no extra does.
    """

    def __init__(self, part: str, extra: str = "", command: str = "") -> None:
        super().__init__(f"{part} is not installed; run: {command or install_command(extra)}")


class EngineError(FedRecError):
    """An engine could not start, or broke off."""


class RunFolderError(FedRecError):
    """A run folder exists already, cannot be written, or is not one."""


class ProtocolError(FedRecError):
    """A message breaks the contract between server and clients."""


class NumericError(FedRecError):
    """A value is not finite, or a fixed-point sum overflows."""


class TooFewClients(FedRecError):
    """Too many clients of a round have dropped out for what the others do together."""


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


def require(module: str, purpose: str, extra: str = "sim") -> None:
    """Check that a package of an extra is installed.

    Raises:
        MissingExtra: If it is not.
    """
    if find_spec(module) is None:
        raise MissingExtra(f"{module}, {purpose},", extra)


def install_command(extra: str) -> str:
    """Return the command that installs what an extra of fedrec needs."""
    try:
        requirements = metadata.requires("fedrec") or []
    except metadata.PackageNotFoundError:  # used from a folder, without being installed
        return f"pip install -e '{Path(__file__).parents[1]}[{extra}]'"
    marked = (text.partition("; ") for text in requirements)
    names = [name for name, _, marker in marked if f'extra == "{extra}"' in marker]
    return "pip install " + " ".join(f"'{name}'" for name in names)


def not_finite(what: str, made_of: Iterable[Any]) -> FedRecError:
    """Return the error for what is not finite: of the code, unless what it is made of is large.

    Args:
        what: Of which plug-in, and what.
        made_of: Arrays or tensors.
    """
    if all((abs(values) < MODERATE).all() for values in made_of):
        return ConfigError(
            f"{what} though its parameters are; look at its divisions, roots, logarithms and "
            "exponentials"
        )
    return NumericError(what)


def check_same(source: str, came: Mapping[Any, str], expected: Mapping[Any, str]) -> None:
    """Check what a method of a plug-in returned, described by name.

    Raises:
        ConfigError: With what differs.
    """
    if came != expected:
        differs = _others(came, expected), _others(expected, came)
        raise ConfigError("{} returned {}, expected {}".format(source, *differs))


def check_shapes(
    source: str, came: Mapping[Any, Any], like: Mapping[Any, Any], typed: bool = False
) -> None:
    """Check names and shapes of arrays or tensors, which may be dropped or broadcast silently.

    Args:
        source: Which method of which plug-in returned them.
        came: By name, what it returned.
        like: By name, values of the expected shapes.
        typed: Whether their types must be the same too.

    Raises:
        ConfigError: With what differs.
    """
    if not isinstance(came, Mapping):
        raise ConfigError(f"{source} returned {kind_of(came)}, expected values by name")
    described = kind_of if typed else _shape_of
    check_same(source, *({n: described(v) for n, v in each.items()} for each in (came, like)))


def kind_of(value: Any) -> str:
    """Return such as ``float32 [3, 2]`` for an array or a tensor, the type of anything else."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "None" if value is None else type(value).__name__


def _shape_of(value: Any) -> str:
    return f"{list(value.shape)}" if hasattr(value, "shape") else kind_of(value)


def _others(described: Mapping[Any, str], known: Mapping[Any, str]) -> str:
    others = (f"'{n}' {text}" for n, text in described.items() if known.get(n) != text)
    return ", ".join(others).replace("'' ", "") or "nothing"


def did_you_mean(word: str, accepted: Iterable[str], part: Callable[[str], str] = str.lower) -> str:
    """Return ``" (did you mean 'x'?)"`` if an accepted word is near, else a list of them.

    It is a suffix for an error message, empty where nothing is accepted. Words are compared by
    a ``part`` of each.
    """
    names = sorted(accepted)
    by_part = {part(name): name for name in reversed(names)}
    for near in difflib.get_close_matches(part(word), by_part, n=1, cutoff=0.7):
        return f" (did you mean '{printable(by_part[near])}'?)"
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f" (known: {', '.join(map(printable, names[:MAX_NAMES]))}{more})" if names else ""


def printable(text: str) -> str:
    """Return a text with line breaks and the like escaped: it may come from a damaged file."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
