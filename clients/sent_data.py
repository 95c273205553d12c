"""Data of nodes on machines that have none: sent by its hash, once to each worker process."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from clients.shard_source import NodeData, PreparedSplit
from fedrec.data.catalogue import Catalogue
from fedrec.data.prepare import version_of
from fedrec.runs.open_run import OpenRun

_CATALOGUE = "catalogue"
_OWN = ("shard", "first_stage")
"""The fields of `NodeData` with rows of the node's clients; the others all nodes know."""

_RECEIVED: dict[str, Mapping[str, Any]] = {}


class SentData:
    """Data that this process was sent, as a `clients.shard_source.ShardSource`.

    Args:
        hashes: Of what all nodes know, and of what is the node's own.
    """

    def __init__(self, hashes: Sequence[str]) -> None:
        self._fields = {name: value for key in hashes for name, value in _RECEIVED[key].items()}

    def catalogue(self) -> Catalogue:
        """See `ShardSource.catalogue`."""
        items: Catalogue = self._fields[_CATALOGUE]
        return items

    def data(self) -> NodeData:
        """See `ShardSource.data`."""
        return NodeData(**{each.name: self._fields[each.name] for each in fields(NodeData)})


def to_send(run: OpenRun, partition: int, partitions: int) -> dict[str, Mapping[str, Any]]:
    """Return by hash what a node is sent: first what all nodes know, then what is its own.

    Args:
        run: The run with its split.
        partition: Number of the node.
        partitions: Number of nodes.
    """
    source = PreparedSplit(run, partition, partitions)
    data = source.data()
    values = {
        _CATALOGUE: source.catalogue(),
        **{f.name: getattr(data, f.name) for f in fields(data)},
    }
    if data.first_stage is not None:
        values["first_stage"] = data.first_stage.of_users(data.shard.user_ids)
    own = {name: values.pop(name) for name in _OWN}
    made_of = [version_of(run.prepared), source.catalogue().hash, run.experiment.for_nodes()]
    common, of_node = (_hash([*made_of, *more]) for more in ((), (partition, partitions)))
    return {common: values, of_node: own}


def receive(sent: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep for `SentData` what this process was sent, by hash."""
    _RECEIVED.update(sent)


def _hash(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
