"""Flower grids with fixed nodes: what fedrec's own engines share, and the serial engine."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Any, NoReturn, Self

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedrec.errors import EngineError
from fedrec.flower.processes import Observer

RUN_ID = 1
SERVER_NODE = 0
IDENTITY = "flwr.supercore.task_identity"


def claim_identity() -> None:
    """Let this process build messages, unless Flower has done so.

    ``flwr.app.Message`` reads who its sender is from a private class that Flower fills in its own
    processes. fedrec needs no other private name of Flower.

    Raises:
        EngineError: If the installed Flower keeps the identity elsewhere.
    """
    try:
        identity = import_module(IDENTITY).TaskIdentity
        if identity._run_id is None:
            identity.task_id, identity.run_id, identity.node_id = 0, RUN_ID, SERVER_NODE
    except (ImportError, AttributeError) as error:
        raise EngineError(
            f"flwr {version('flwr')} does not have {IDENTITY}.TaskIdentity as fedrec needs it; "
            "install a version that fedrec was tested with: pip install 'flwr>=1.41,<1.43'"
        ) from error


def node_context(
    node: int,
    n_nodes: int,
    run_config: Mapping[str, Any] | None = None,
    node_config: Mapping[str, Any] | None = None,
) -> Context:
    """Return the context of a node, from 1, or of the server, 0, as Flower's simulation would.

    Args:
        node: Which.
        n_nodes: How many nodes there are.
        run_config: The run's configuration.
        node_config: What the configuration of every node holds besides its number.
    """
    numbered = {"partition-id": node - 1, "num-partitions": n_nodes, **(node_config or {})}
    config: Any = numbered if node else {}
    return Context(RUN_ID, node, config, RecordDict(), dict(run_config or {}))


class EngineGrid(Grid):
    """A Flower grid over nodes 1 to N; a context manager, which ends what it has started.

    Replies come in the order of the node ids, whatever the order in which the nodes finish. An
    exception in the client app is raised by `send_and_receive`; it names node and kind of message.

    Args:
        n_nodes: How many nodes.
    """

    observer: Observer | None = None

    def __init__(self, n_nodes: int) -> None:
        claim_identity()
        self.nodes = tuple(range(1, n_nodes + 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what the engine has started; may be called twice."""

    @abstractmethod
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages to their nodes and return the replies, in the order of the node ids.

        Args:
            messages: Taken one by one, so a generator need not hold them all at once.
            timeout: Not used: no node is given up.
        """

    def get_node_ids(self) -> list[int]:
        """Return the node ids: 1 to N."""
        return list(self.nodes)

    def _only_in_flower(self, *_: Any, **__: Any) -> NoReturn:
        raise EngineError("this engine has send_and_receive only; take engine: flower")

    run = property(_only_in_flower)
    set_run = create_message = push_messages = pull_messages = _only_in_flower


class SerialGrid(EngineGrid):
    """Runs the client app in this process, one node after the other; nothing is copied.

    An exception in the client app reaches the caller as it is, with its stack trace.
    """

    def __init__(
        self,
        client_app: ClientApp,
        n_nodes: int = 1,
        run_config: Mapping[str, Any] | None = None,
        node_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(n_nodes)
        self._app = client_app
        configs = run_config, node_config
        self._contexts = {n: node_context(n, n_nodes, *configs) for n in self.nodes}

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """See `EngineGrid.send_and_receive`."""
        replies = []
        for message in messages:
            try:
                replies.append(self._app(message, self._contexts[message.metadata.dst_node_id]))
            except Exception as error:
                error.add_note(f"({describe(message)})")
                raise
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)


def describe(message: Message) -> str:
    """Return text such as ``node 3, train, round 7``, as far as the message tells."""
    metadata = message.metadata
    group = f", round {metadata.group_id}" if metadata.group_id else ""
    return f"node {metadata.dst_node_id}, {metadata.message_type}{group}"
