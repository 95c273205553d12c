"""Where a node keeps things and finds them: on its own machine, as its own configuration says."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fedrec.errors import ProtocolError
from fedrec.runs.folder import STATE as STATE_FOLDER

PARTITION, PARTITIONS = "partition-id", "num-partitions"
STATE, DATA, FEATURES, DEVICE = "state-dir", "data", "features", "device"
STATE_VARIABLE = "FEDREC_STATE_DIR"


@dataclass(frozen=True, slots=True)
class NodePlace:
    """What a node is told by who starts it, and never by a message.

    Args:
        partition: its number among the nodes.
        partitions: how many nodes there are.
        state: folder of private state and private values.
        data: file of the prepared data; None: it prepares it, if the experiment names no file.
        features: file of the features of the items, if there are any.
        device: what it computes on; "" for a node that finds out itself.
    """

    partition: int
    partitions: int
    state: Path
    data: Path | None = None
    features: Path | None = None
    device: str = ""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Return what a node's configuration says.

        Raises:
            ProtocolError: If something is missing; with the way out.
        """
        try:
            partition, partitions = int(config[PARTITION]), int(config[PARTITIONS])
            state = config.get(STATE) or os.environ[STATE_VARIABLE]
        except KeyError as error:
            missing = STATE if error.args[0] == STATE_VARIABLE else error.args[0]
            raise ProtocolError(
                f"the node's configuration lacks '{missing}'; start the node with --node-config "
                "'partition-id=0 num-partitions=2 state-dir=\"/var/lib/fedrec\"', or set "
                f"{STATE_VARIABLE} in its environment to the folder for its state"
            ) from error
        files = (str(config.get(key) or "") for key in (DATA, FEATURES))
        data, features = (Path(file) if file else None for file in files)
        return cls(
            partition, partitions, Path(state), data, features, str(config.get(DEVICE) or "")
        )

    @property
    def folder(self) -> Path:
        """The folder of the node's own private state."""
        return self.state / STATE_FOLDER / name_of_node(self.partition)


def name_of_node(partition: int) -> str:
    """Return the name of a node, which its files bear."""
    return f"node-{partition:03d}"
