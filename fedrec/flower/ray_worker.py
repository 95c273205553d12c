"""What runs inside a Ray actor: the nodes of one worker."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from flwr.app import Array, Context, RecordDict

from fedrec.errors import EngineError
from fedrec.flower.failures import Failure
from fedrec.flower.grid import RUN_ID, node_config
from fedrec.flower.pieces import Piece, assemble, take_apart
from fedrec.flower.references import load_app
from fedrec.flower.siblings import code_hash
from fedrec.storage.lock import hold

__all__ = ["Worker", "check_code"]


def check_code(expected: str | None) -> None:
    """Make sure that a worker that replaces another runs the code that the run began with.

    Args:
        expected: `fedrec.flower.siblings.code_hash` of that code; None: whatever is there.

    Raises:
        EngineError: If it is another.
    """
    if expected is not None and code_hash() != expected:
        raise EngineError(
            f"the code of fedrec was changed while the run went on ({code_hash()[:8]}, was "
            f"{expected[:8]}), so no worker can be replaced; change it back, then run --resume"
        )


class Worker:
    """Holds the contexts of its nodes, so their local state never travels.

    Args:
        client_app: Reference of the client app, ``module:attribute``.
        n_nodes: How many nodes there are in all.
        run_config: The run's configuration.
        extra: Further entries of every node's configuration.
    """

    def __init__(
        self,
        client_app: str,
        n_nodes: int,
        run_config: Mapping[str, Any],
        extra: Mapping[str, Any],
    ) -> None:
        out = Path(str(run_config.get("out") or ""))
        self._at_work = hold(out, shared=True) if (out / "rounds.jsonl").is_file() else None
        self._app = load_app(client_app, "ClientApp")
        self._n_nodes = n_nodes
        self._run_config = dict(run_config)
        self._extra = dict(extra)
        self._contexts: dict[int, Context] = {}
        self._exchange = 0
        self._arrays: dict[Any, Array] = {}

    def handle(
        self, exchange: int, node: int, body: bytes, pieces: Sequence[Piece]
    ) -> tuple[bytes, list[Piece]] | Failure:
        """Run the client app on one message.

        Args:
            exchange: Number of the exchange; arrays are remembered until the next one.
            node: The node that the message is for.
            body: The message without its arrays.
            pieces: Its arrays, as bytes or as references to the object store.

        Returns:
            The reply, taken apart, or what went wrong.
        """
        if exchange != self._exchange:
            self._exchange, self._arrays = exchange, {}
        try:
            message = assemble(body, [self._array(piece) for piece in pieces])
            reply, arrays = take_apart(self._app(message, self._context(node)))
        except Exception as error:  # whatever it is, the driver raises it
            return Failure.of(error)
        return reply, [piece._replace(data=pickle.PickleBuffer(piece.data)) for piece in arrays]

    def _array(self, piece: Piece) -> Array:
        if isinstance(piece.data, bytes):
            return Array(*piece)
        if piece not in self._arrays:
            self._arrays[piece] = Array(*piece._replace(data=ray.get(piece.data)))
        return self._arrays[piece]

    def _context(self, node: int) -> Context:
        if node not in self._contexts:
            config = {**node_config(node, self._n_nodes), **self._extra}
            self._contexts[node] = Context(RUN_ID, node, config, RecordDict(), self._run_config)
        return self._contexts[node]
