"""Nodes on machines without the driver's files: what the driver keeps for them, and what they do.

The driver's run folder stays the only truth. A worker without it has a copy of the files of each
of its nodes. A node works with the copy as it would with the folder, and what it writes is in the
run folder before the server hears of its reply. So a worker that dies takes nothing with it. All
of this goes beside the messages.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.node_files import NodeFiles, Written, put_down
from clients.open_node import keep_description, open_node
from clients.place import SENT, NodePlace
from clients.sent_data import receive, to_send
from fedrec.flower import records
from fedrec.flower.grid import node_context
from fedrec.flower.remote import DATA, RUN, Opening, Sight
from fedrec.flower.sum_records import request_of
from fedrec.runs.open_run import open_run


class RemoteNodes:
    """The driver's side, as `fedrec.flower.remote.DriverSide`.

    Args:
        n_nodes: How many nodes the run has.
        node_config: What the configuration of every node holds on the driver.
    """

    def __init__(self, n_nodes: int, node_config: Mapping[str, Any]) -> None:
        contexts = (node_context(n, n_nodes, None, node_config) for n in range(1, n_nodes + 1))
        self._places = [NodePlace.of(context.node_config) for context in contexts]

    def opening(self, message: Message, sight: Sight) -> Opening:
        """See `DriverSide.opening`."""
        place = self._place(message)
        if message.metadata.message_type == records.ROLL_CALL:
            description = records.decode(message.content, records.RunDescription)
            keep_description(description, place)
            start = description.start
        else:
            start = request_of(message)[0].start
        if not sight.run:
            self.settle(message)
        files, data = None if sight.run else NodeFiles(place).read(), {}
        if not sight.data:
            assert place.data is not None
            run = open_run(start, place.state, place.data, place.features)
            data = to_send(run, place.partition, place.partitions)
        return Opening(files, data)

    def settle(self, message: Message) -> None:
        """See `DriverSide.settle`."""
        if message.metadata.message_type != records.ROLL_CALL:
            request, trains = request_of(message)
            open_node(request.start, self._place(message)).settle(request, trains)

    def take(self, message: Message, written: Written) -> None:
        """See `DriverSide.take`."""
        NodeFiles(self._place(message)).take(written)

    def _place(self, message: Message) -> NodePlace:
        return self._places[message.metadata.dst_node_id - 1]


class RemoteApp:
    """The worker's side, as `fedrec.flower.remote.WorkerSide`.

    Args:
        app: The client app.
        folder: For copies of what the run folder holds of nodes; None: the run folder is here.
    """

    def __init__(self, app: ClientApp, folder: Path | None) -> None:
        self._app, self._folder, self._opened = app, folder, 0

    def open(self, context: Context, opening: Opening) -> Context:
        """See `WorkerSide.open`."""
        config = dict(context.node_config)
        if self._folder is not None:
            # A node that was here before, and then elsewhere, finds nothing of that.
            self._opened += 1
            folder = self._folder / str(self._opened)
            put_down(opening.files or {}, folder)
            config[RUN] = str(folder)
        if opening.data:
            receive(opening.data)
            config = {key: value for key, value in config.items() if key not in DATA}
            config[SENT] = " ".join(opening.data)
        return replace(context, node_config=config)

    def __call__(self, message: Message, context: Context) -> tuple[Message, Written | None]:
        """See `WorkerSide.__call__`."""
        if self._folder is None:
            return self._app(message, context), None
        files = NodeFiles(NodePlace.of(context.node_config))
        before = files.marks()
        return self._app(message, context), files.written(before)
