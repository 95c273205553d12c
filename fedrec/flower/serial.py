"""The serial engine: every node in this process, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedrec.flower.grid import RUN_ID, EngineGrid, describe, node_config

__all__ = ["SerialGrid"]


class SerialGrid(EngineGrid):
    """Runs the client app in process; nothing is copied on the way.

    An exception in the client app reaches the caller as it is, with its stack trace.

    Args:
        client_app: What every node runs.
        n_nodes: How many nodes.
        run_config: The run's configuration, for every node.
        extra: Further entries of every node's configuration.
    """

    def __init__(
        self,
        client_app: ClientApp,
        n_nodes: int = 1,
        run_config: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(n_nodes)
        self._app = client_app
        self._contexts = {
            node: Context(
                RUN_ID,
                node,
                {**node_config(node, n_nodes), **(extra or {})},
                RecordDict(),
                dict(run_config or {}),
            )
            for node in self.nodes
        }

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """See `EngineGrid.send_and_receive`; a time-out does not interrupt the only process."""
        replies = [(message.metadata.dst_node_id, self._handle(message)) for message in messages]
        return [reply for _, reply in sorted(replies, key=lambda pair: pair[0])]

    def _handle(self, message: Message) -> Message:
        self.check_destination(message)
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            error.add_note(f"({describe(message)})")
            raise
