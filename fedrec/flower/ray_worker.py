"""Run the nodes of one worker inside a Ray actor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import ray
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrec.errors import EngineError
from fedrec.flower.grid import node_context
from fedrec.flower.packages import code_hash
from fedrec.flower.processes import Failure
from fedrec.storage.lock import hold

__all__ = ["Worker", "actor_class"]


class Worker:
    """Holds the contexts of its nodes, so their private state never travels.

    Args:
        code: `fedrec.flower.packages.code_hash` of the code that the run began with.
        client_app: Reference of the client app, ``module:attribute``.
        n_nodes: Number of nodes of the run.
        run_config: The run's configuration.

    Raises:
        EngineError: If this machine has other code, or it was changed before a worker was replaced.
    """

    def __init__(
        self, code: str, client_app: str, n_nodes: int, run_config: Mapping[str, Any]
    ) -> None:
        if code_hash() != code:
            raise EngineError(
                f"the code of fedrec here is not that of the run ({code_hash()[:8]} and "
                f"{code[:8]}): if it was changed meanwhile, change it back, then run --resume; "
                "else install the same version of fedrec"
            )
        out = Path(str(run_config.get("out") or ""))
        self._lock = hold(out, shared=True) if (out / "rounds.jsonl").is_file() else None
        self._app: ClientApp = resolve_name(client_app)
        self._settings = (n_nodes, dict(run_config))
        self._contexts: dict[int, Context] = {}
        self._records: dict[Any, Any] = {}

    def handle(self, message: Message, references: Mapping[str, Any]) -> Message | Failure:
        """Run the client app on one message.

        Args:
            message: The message without its large records.
            references: Name and reference of each; those of the last message are still there.

        Returns:
            The reply, or the exception of the client app.
        """
        node, last = message.metadata.dst_node_id, self._records
        if node not in self._contexts:
            self._contexts[node] = node_context(node, *self._settings)
        try:
            self._records = {ref: last.get(ref) or ray.get(ref) for ref in references.values()}
            for name, reference in references.items():
                message.content[name] = self._records[reference]
            return self._app(message, self._contexts[node])
        except Exception as error:  # the driver raises it
            return Failure.of(error)


def actor_class() -> type:
    """Return the class of the actors; pickled by value, as they must set the path first."""

    class FedrecWorker:
        def __init__(self, path: list[str]) -> None:
            import os
            import sys

            for name in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
                os.environ[f"{name}_NUM_THREADS"] = "1"
            sys.path[:] = path + [entry for entry in sys.path if entry not in path]
            self.worker: Any = None

        def prepare(self, settings: tuple[Any, ...]) -> tuple[str, str, str] | None:
            import traceback

            try:
                from fedrec.flower.ray_worker import Worker

                self.worker = Worker(*settings)
            except Exception as error:
                return type(error).__name__, str(error), traceback.format_exc()
            return None

        def handle(self, *request: Any) -> Any:
            return self.worker.handle(*request)

    return FedrecWorker
