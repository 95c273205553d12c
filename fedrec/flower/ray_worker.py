"""Run the nodes of one worker inside a Ray actor."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from flwr.app import Array, Context

from fedrec.errors import EngineError
from fedrec.flower.apps import load_app
from fedrec.flower.failures import Failure
from fedrec.flower.grid import node_context
from fedrec.flower.message_arrays import MessageArray, join_arrays, split_arrays
from fedrec.flower.packages import code_hash
from fedrec.storage.lock import hold

__all__ = ["Worker", "check_code"]


def check_code(expected: str | None) -> None:
    """Make sure that a worker that replaces another runs the code that the run began with.

    Args:
        expected: `fedrec.flower.packages.code_hash` of that code; None: any code.

    Raises:
        EngineError: If it is another.
    """
    if expected is not None and code_hash() != expected:
        raise EngineError(
            f"the code of fedrec was changed during the run ({code_hash()[:8]}, was "
            f"{expected[:8]}), so no worker can be replaced; change it back, then run --resume"
        )


class Worker:
    """Holds the contexts of its nodes, so their private state never travels.

    Args:
        client_app: Reference of the client app, ``module:attribute``.
        n_nodes: Number of nodes of the run.
        run_config: The run's configuration.
    """

    def __init__(self, client_app: str, n_nodes: int, run_config: Mapping[str, Any]) -> None:
        out = Path(str(run_config.get("out") or ""))
        self._lock = hold(out, shared=True) if (out / "rounds.jsonl").is_file() else None
        self._app = load_app(client_app, "ClientApp")
        self._settings = (n_nodes, dict(run_config))
        self._contexts: dict[int, Context] = {}
        self._exchange = 0
        self._arrays: dict[MessageArray, Array] = {}

    def handle(
        self, exchange: int, node: int, body: bytes, arrays: Sequence[MessageArray]
    ) -> tuple[bytes, list[MessageArray]] | Failure:
        """Run the client app on one message.

        Args:
            exchange: Number of the exchange; arrays are kept until the next one.
            node: The node that the message is for.
            body: The message without its arrays.
            arrays: Its arrays, as bytes or as references to the object store.

        Returns:
            The reply and its arrays, or the exception of the client app.
        """
        if exchange != self._exchange:
            self._exchange, self._arrays = exchange, {}
        if node not in self._contexts:
            self._contexts[node] = node_context(node, *self._settings)
        try:
            message = join_arrays(body, [self._array(array) for array in arrays])
            reply, parts = split_arrays(self._app(message, self._contexts[node]))
        except Exception as error:  # the driver raises it
            return Failure.of(error)
        return reply, [array._replace(data=pickle.PickleBuffer(array.data)) for array in parts]

    def _array(self, array: MessageArray) -> Array:
        if isinstance(array.data, bytes):
            return Array(*array)
        if array not in self._arrays:
            self._arrays[array] = Array(*array._replace(data=ray.get(array.data)))
        return self._arrays[array]
