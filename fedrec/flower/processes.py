"""What the processes of an engine share: their code, their environment, failures as plain text."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias

from fedrec import errors
from fedrec.errors import EngineError, FedRecError
from fedrec.flower.shipped_code import PACKAGES, hash_of, source_files
from fedrec.plugins import as_mapping

# By reference: the library imports no outer package.
SERVER = "server.app:app"
CLIENT = "clients.app:app"
ROOT = Path(__file__).resolve().parents[2]
OUTER_PACKAGES = PACKAGES[1:]
"""Names so common that a folder of the user's can stand before ours on the path."""

Observer: TypeAlias = Callable[[Mapping[str, Any]], None]
"""Is called with the record of each round, as it stands in ``rounds.jsonl``."""

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray announces what its future versions do
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
NO_PROXY = ("no_proxy", "NO_PROXY", "no_grpc_proxy", "NO_GRPC_PROXY")


def engine_variables() -> dict[str, str]:
    """Return the variables to set for processes of Ray and Flower.

    Reporting and update checks are turned off, unless the user has set the variable. Loopback is
    added to every list of hosts without a proxy: gRPC and HTTP clients read these in lower and in
    upper case, and some read ``no_grpc_proxy`` first.
    """
    listed = ",".join(os.environ.get(name, "") for name in NO_PROXY).split(",")
    hosts = dict.fromkeys([*filter(None, map(str.strip, listed)), *LOOPBACK])
    without_proxy = "*" if "*" in hosts else ",".join(hosts)
    quiet = {name: os.environ.get(name, value) for name, value in QUIET.items()}
    return quiet | dict.fromkeys(NO_PROXY, without_proxy)


def import_path() -> list[str]:
    """Return where this process finds modules, for a process with another working folder."""
    return [str(Path(entry or ".").resolve()) for entry in sys.path]


@contextmanager
def engine_environment() -> Iterator[None]:
    """Set `engine_variables` in this process, for what it starts meanwhile, then restore them."""
    variables = engine_variables()
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)


def start_ahead(experiment: Mapping[str, Any]) -> None:
    """Begin to start Ray, if that is what an experiment runs on, while this process imports torch.

    Args:
        experiment: Its sections, which nobody has checked yet.
    """
    engine = as_mapping(experiment.get("engine"))
    if isinstance(engine, Mapping) and engine.get("name") == "ray" and not engine.get("address"):
        with suppress(ImportError):  # whether it is installed is asked later
            from fedrec.flower.ray_session import RaySession

            RaySession.start_ahead()


class Failure(NamedTuple):
    """An exception as text, so that nothing has to be picklable to pass between processes.

    Args:
        kind: name of its class.
        message: what it says.
        traceback: where it came from, as Python prints it.
    """

    kind: str
    message: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """Return the text of an exception."""
        return cls(type(error).__name__, str(error), "".join(traceback.format_exception(error)))

    def error(self, where: str) -> FedRecError:
        """Return an exception to raise on this side.

        An error of fedrec's comes back as what it was; every other becomes an `EngineError`. The
        stack trace of the other side is its note.

        Args:
            where: What was being done, such as ``node 3, train, round 7``.
        """
        kind = getattr(errors, self.kind, None)
        restored: FedRecError
        if isinstance(kind, type) and issubclass(kind, FedRecError):
            restored = kind.__new__(kind, self.message)
        else:
            restored = EngineError(f"{where}: {self.kind}: {self.message}".rstrip(": "))
        restored.add_note(f"({where}) in another process:\n{self.traceback.rstrip()}")
        return restored


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_packages() -> None:
    """Make sure that the outer packages are those that belong to this fedrec.

    Raises:
        EngineError: If one is missing, or something else of that name comes first on the path.
    """
    for name in OUTER_PACKAGES:
        spec, expected = find_spec(name), ROOT / name
        if spec is None:
            raise EngineError(
                f"'{name}' cannot be imported; it belongs beside fedrec, as {expected}; "
                "run: pip install --force-reinstall fedrec, or pip install -e . in a checkout"
            )
        folders = [Path(place).resolve() for place in spec.submodule_search_locations or ()]
        if expected not in folders:
            other = folders[0] if folders else spec.origin
            raise EngineError(
                f"{other} shadows fedrec's own '{name}' ({expected}): rename it, or run from "
                "another folder"
            )


@cache
def code_files() -> Mapping[str, bytes]:
    """Return the sources of all packages as they are now: content by path.

    Raises:
        EngineError: As `check_packages`.
    """
    check_packages()
    return source_files(ROOT)


@cache
def code_hash() -> str:
    """Return the sha256 of the sources of all packages, to compare server, workers and devices.

    Raises:
        EngineError: As `check_packages`.
    """
    return hash_of(code_files())
