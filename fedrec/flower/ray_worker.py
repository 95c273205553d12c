"""What runs in a Ray actor: the client app, for the nodes of one worker."""

import socket
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import ray
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrec.errors import EngineError
from fedrec.flower.grid import node_context
from fedrec.flower.machine_code import machine_code
from fedrec.flower.processes import Failure
from fedrec.flower.remote import LOG_OF_ROUNDS, RUN, Marks, Opening, Sight, WorkerSide
from fedrec.flower.worker_folders import WorkerFolders
from fedrec.storage.files import hold

DECISIVE = ("torch", "numpy", "flwr", "numba")
"""Distributions that decide bits of a result, or what messages look like."""


def decisive_versions() -> dict[str, str]:
    """Return the versions of packages that driver and workers must have in common."""
    installed = {name: [*metadata.distributions(name=name)] for name in DECISIVE}
    # What follows a plus tells builds of one version apart: for the CPU, for a GPU.
    return {n: each[0].version.partition("+")[0] for n, each in installed.items() if each}


class Worker:
    """Holds the contexts of its nodes.

    Args:
        code: Where the code of the run was put; None: this machine's own is the same.
        client_app: Reference of the client app, ``module:attribute``.
        remote_app: Reference of the class of a `WorkerSide`, for the case that files are missing.
        n_nodes: How many nodes the run has.
        run_config: The run's configuration.
        node_config: See `fedrec.flower.grid.node_context`.
        marks: The fields of `Marks`, of the driver's files.
        versions: `decisive_versions` of the driver.

    Raises:
        EngineError: If other versions are installed here.
    """

    def __init__(
        self,
        code: Path | None,
        client_app: str,
        remote_app: str,
        n_nodes: int,
        run_config: Mapping[str, Any],
        node_config: Mapping[str, Any],
        marks: tuple[Any, ...],
        versions: Mapping[str, str],
    ) -> None:
        _check_versions(versions)
        self._sight = Marks(*marks).sight(code is None)
        self._folders = WorkerFolders()
        if code is not None:
            self._folders.hold(code)
        out = Path(str(node_config.get(RUN) or ""))
        has_log = self._sight.run and (out / LOG_OF_ROUNDS).is_file()
        self._lock = hold(out, shared=True) if has_log else None
        self._app: ClientApp = resolve_name(client_app)
        self._remote: WorkerSide | None = None
        if not (self._sight.run and self._sight.data):
            folder = None if self._sight.run else self._folders.make()
            self._remote = resolve_name(remote_app)(self._app, folder)
        self._settings = (n_nodes, dict(run_config), dict(node_config))
        self._contexts: dict[int, Context] = {}
        self._records: dict[Any, Any] = {}
        self._data: dict[str, Any] = {}

    def about(self) -> tuple[Sight, str, dict[str, str]]:
        """Return what it has of the driver's files, the name of its machine, and `machine_code`."""
        return self._sight, socket.gethostname(), machine_code()

    def handle(
        self,
        message: Message,
        references: Mapping[str, Any],
        opening: tuple[Mapping[str, bytes] | None, Mapping[str, Any]] | None = None,
    ) -> tuple[Message | Failure, Any, float]:
        """Run the client app on one message.

        Args:
            message: The message without its large records.
            references: Name and reference of each; those of the last message are still there.
            opening: The fields of `Opening`, of the data references, where the node is new here
                and the driver's files are not.

        Returns:
            The reply, or the exception of the client app; what the node has written, where the
            run folder is not here; and the seconds that the client app worked.
        """
        node, last = message.metadata.dst_node_id, self._records
        try:
            if node not in self._contexts:
                self._contexts[node] = node_context(node, *self._settings)
            if opening is not None:
                self._open(node, *opening)
            self._records = {ref: last.get(ref) or ray.get(ref) for ref in references.values()}
            for name, reference in references.items():
                message.content[name] = self._records[reference]
            context, began = self._contexts[node], time.perf_counter()
            if self._remote is None:
                reply, written = self._app(message, context), None
            else:
                reply, written = self._remote(message, context)
            return reply, written, time.perf_counter() - began
        except Exception as error:  # the driver raises it
            return Failure.of(error), None, 0.0

    def leave(self) -> None:
        """Remove what the worker has put on its machine."""
        self._folders.remove()

    def _open(
        self, node: int, files: Mapping[str, bytes] | None, references: Mapping[str, Any]
    ) -> None:
        assert self._remote is not None
        for key, reference in references.items():
            if key not in self._data:
                self._data[key] = ray.get(reference)
        opening = Opening(files, {key: self._data[key] for key in references})
        self._contexts[node] = self._remote.open(self._contexts[node], opening)


def _check_versions(expected: Mapping[str, str]) -> None:
    """Check that the same versions are installed here as where the driver runs."""
    here = decisive_versions()
    for name, version in expected.items():
        if here.get(name) != version:
            raise EngineError(
                f"{socket.gethostname()} has {name} {here.get(name, 'not installed')}, the driver "
                f"{version}; install the same version on all machines of the cluster"
            )
