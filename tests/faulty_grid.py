"""A Flower grid that loses, delays, repeats and damages what nodes reply, as a network might."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedrec.flower.grid import claim_identity, node_context

# Makes of the content of a reply what arrives; None: nothing arrives.
Damage = Callable[[RecordDict], RecordDict | None]


class FaultyGrid(Grid):
    """Runs the client app in this process, as messages are pulled; some replies suffer faults.

    Args:
        app: The client app.
        n_nodes: How many nodes.
        node_config: See `fedrec.flower.grid.node_context`.
        faults: By number of the message that a node receives to train, from 1, and by node, from
            1: what becomes of the reply. Those of a secure sum, ``train.keys`` and so on, count.
            Messages to evaluate have the numbers -1, -2 and so on.
    """

    def __init__(
        self,
        app: ClientApp,
        n_nodes: int,
        node_config: Mapping[str, Any],
        faults: Mapping[tuple[int, int], Damage],
    ) -> None:
        claim_identity()
        self._app, self._faults = app, faults
        self._contexts: dict[int, Context] = {
            node: node_context(node, n_nodes, {}, node_config) for node in range(1, n_nodes + 1)
        }
        self._received = {kind: dict.fromkeys(self._contexts, 0) for kind in ("train", "evaluate")}
        self._replies: dict[str, Message] = {}
        self._messages = 0

    def get_node_ids(self) -> list[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            self._messages += 1
            id = f"message-{self._messages}"
            message.metadata.__dict__["_message_id"] = id
            ids.append(id)
            node = message.metadata.dst_node_id
            kind, damage = message.metadata.message_type.partition(".")[0], None
            if kind in self._received:
                self._received[kind][node] += 1 if kind == "train" else -1
                damage = self._faults.get((self._received[kind][node], node))
            try:
                reply = self._app(deepcopy(message), self._contexts[node])
            except Exception as error:  # as Flower's nodes do
                reply = Message(Error(2, str(error)), reply_to=message)
            if damage is not None and reply.has_content():
                content = damage(reply.content)
                if content is None:
                    continue
                reply.content = content
            self._replies[id] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(id) for id in list(message_ids) if id in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))

    def _absent(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("not a part of what fedrec uses")

    run = property(_absent)
    set_run = create_message = _absent
