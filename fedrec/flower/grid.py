"""Flower grids with fixed nodes: what fedrec's own engines share, and the serial engine."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, Self

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedrec.errors import EngineError
from fedrec.flower.identity import task_identity

__all__ = ["SERVER_NODE", "EngineGrid", "Observer", "SerialGrid", "describe", "node_context"]

Observer = Callable[[Mapping[str, Any]], None]
"""Is called with the record of each round, as it stands in ``rounds.jsonl``."""

RUN_ID = 1
SERVER_NODE = 0


def node_context(node: int, n_nodes: int, run_config: Mapping[str, Any] | None = None) -> Context:
    """Return the context of a node; it tells the node what Flower's simulation would.

    Args:
        node: node id, from 1; 0 is the server.
        n_nodes: number of nodes.
        run_config: the run's configuration.
    """
    config: Any = {"partition-id": node - 1, "num-partitions": n_nodes} if node else {}
    return Context(RUN_ID, node, config, RecordDict(), dict(run_config or {}))


class EngineGrid(Grid):
    """A Flower grid over nodes 1 to N; a context manager, which ends what it has started.

    Messages can be built only inside the context. Replies come in the order of the node ids,
    whatever the order in which the nodes finish. An exception in the client app is raised by
    `send_and_receive`; it names node and kind of message.

    Args:
        n_nodes: How many nodes.
    """

    observer: Observer | None = None

    def __init__(self, n_nodes: int) -> None:
        self.nodes = tuple(range(1, n_nodes + 1))
        self._run: Any = None
        self._pending: dict[str, Message] = {}
        self._pushed = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(task_identity(RUN_ID, SERVER_NODE))
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        finally:
            self._stack.close()

    def close(self) -> None:
        """End what the engine has started; may be called twice."""

    @property
    def run(self) -> Any:
        """Flower's description of the run, if one was set."""
        if self._run is None:
            raise EngineError("this engine has no Flower run; only Flower's own runtime has one")
        return self._run

    def set_run(self, run: Any) -> None:
        """Keep Flower's description of the run."""
        self._run = run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Build a message; Flower has deprecated it in favour of ``Message(...)``."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the node ids: 1 to N."""
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Accept messages; the nodes get them when their replies are pulled."""
        ids = []
        for message in messages:
            self.check_destination(message)
            self._pushed += 1
            self._pending[str(self._pushed)] = message
            ids.append(str(self._pushed))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Send the pushed messages and return their replies; each can be pulled once."""
        messages = [self._pending.pop(name) for name in message_ids if name in self._pending]
        return self.send_and_receive(messages)

    @abstractmethod
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages to their nodes and return the replies, in the order of the node ids.

        Args:
            messages: Taken one by one, so a generator need not hold them all at once.
            timeout: Seconds after which missing replies are left out; None waits.
        """

    def check_destination(self, message: Message) -> None:
        """Refuse a message to a node that does not exist.

        Raises:
            EngineError: Names the node.
        """
        node = message.metadata.dst_node_id
        if not 1 <= node <= len(self.nodes):
            raise EngineError(f"there is no node {node}; this engine has 1 to {len(self.nodes)}")


class SerialGrid(EngineGrid):
    """Runs the client app in this process, one node after the other; nothing is copied.

    An exception in the client app reaches the caller as it is, with its stack trace.

    Args:
        client_app: What every node runs.
        n_nodes: How many nodes.
        run_config: The run's configuration, for every node.
    """

    def __init__(
        self, client_app: ClientApp, n_nodes: int = 1, run_config: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(n_nodes)
        self._app = client_app
        self._contexts = {n: node_context(n, n_nodes, run_config) for n in self.nodes}

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


def describe(message: Message) -> str:
    """Return text such as ``node 3, train, round 7``, as far as the message tells."""
    metadata = message.metadata
    group = f", round {metadata.group_id}" if metadata.group_id else ""
    return f"node {metadata.dst_node_id}, {metadata.message_type}{group}"
