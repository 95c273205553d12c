"""Where a node keeps things and finds them: on its own machine, as its own configuration says."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from fedrec.errors import ConfigError, ProtocolError
from fedrec.plugins import expand_path
from fedrec.runs.folder import STATE

STATE_VARIABLE = "FEDREC_STATE_DIR"
SENT = "sent"
NAME = re.compile("[0-9a-f]{32}")
"""What the names of runs look like; nothing else that a server says becomes a folder."""


@dataclass(frozen=True, slots=True)
class NodePlace:
    """What a node is told by who starts it, and never by a message.

    Args:
        partition: its number among the nodes.
        partitions: how many nodes there are.
        state: folder of private state and private values.
        data: file of the prepared data; None: the node prepares data that the experiment names.
        features: file of the features of the items, if there are any.
        device: what it computes on; "" for a node that finds out itself.
        shared: whether ``state`` is of many runs, which have folders below it.
        sent: hashes of the data that this process was sent; empty where it has none of that.
        own_file: on a device, the file that says where its data lies, see `clients.own_file`.
    """

    partition: int
    partitions: int
    state: Path
    data: Path | None = None
    features: Path | None = None
    device: str = ""
    shared: bool = False
    sent: tuple[str, ...] = ()
    own_file: Path | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Return what a node's configuration says.

        It holds ``partition-id``, ``num-partitions``, and, if the node needs them, ``state-dir``,
        ``data``, ``features`` and ``device``. fedrec's own engines give ``run-dir``, the run
        folder, in place of ``state-dir``; and ``sent`` in place of ``data`` that they have sent. A
        device has ``own-file`` in place of its number, which the server knows by its key.

        Raises:
            ProtocolError: If something is missing or impossible; with the way out.
        """
        numbers = []
        alone = {"partition-id": 0, "num-partitions": 1} if config.get("own-file") else {}
        for key in ("partition-id", "num-partitions"):
            text = str({**config, **alone}.get(key, ""))
            if not text.isdecimal():
                raise ProtocolError(
                    f"the node's configuration: {key}: expected a whole number, got '{text}'; "
                    "start the node with --node-config 'partition-id=0 num-partitions=2'"
                )
            numbers.append(int(text))
        partition, partitions = numbers
        if partition >= partitions:
            raise ProtocolError(
                f"the node's configuration: partition-id: {partition}, but there are "
                f"{partitions} nodes (num-partitions), and the first has number 0"
            )
        run, device = str(config.get("run-dir") or ""), str(config.get("device") or "")
        state = run or str(config.get("state-dir") or os.environ.get(STATE_VARIABLE) or "")
        if not state:
            raise ProtocolError(
                f"this node has no folder for private state; set {STATE_VARIABLE} in its "
                "environment, or start it with --node-config 'state-dir=\"/var/lib/fedrec\"'"
            )
        try:
            data, features, own = (_file(key, config) for key in ("data", "features", "own-file"))
            folder = expand_path(state)
        except ConfigError as error:
            raise ProtocolError(f"the node's configuration: {error}") from error
        sent = tuple(str(config.get(SENT) or "").split())
        files = data, features, device
        return cls(partition, partitions, folder, *files, not run, sent, own)

    def of_run(self, name: str) -> Self:
        """Return the place for a run.

        Raises:
            ProtocolError: If that is no name of a run.
        """
        if not self.shared:
            return self
        if not NAME.fullmatch(name):
            raise ProtocolError(f"'{name:.40}' is no name of a run of fedrec")
        return replace(self, state=self.state / name, shared=False)

    @property
    def folder(self) -> Path:
        """The folder of the node's own private state."""
        return self.state / STATE / name_of_node(self.partition)


def name_of_node(partition: int) -> str:
    """Return the name of a node, which its files bear."""
    return f"node-{partition:03d}"


def _file(key: str, config: Mapping[str, Any]) -> Path | None:
    """Return a file that the configuration names."""
    text = str(config.get(key) or "")
    path = expand_path(text)
    if text and not path.is_file():
        raise ConfigError(f"{key}: there is no file {path}")
    return path if text else None
