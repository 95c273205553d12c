"""Where a node's data comes from: the rows of its own clients, and what all nodes may know."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from clients.placement import hosted_clients, training_costs
from fedrec.data.catalogue import Catalogue
from fedrec.data.negatives import popularity_weights
from fedrec.evaluation.rerank import FirstStage
from fedrec.evaluation.slices import Slices
from fedrec.runs.open_run import OpenRun
from fedrec.types import FloatArray, IntArray, Shard


@dataclass(frozen=True, slots=True, eq=False)
class NodeData:
    """What a node knows of the data of a run.

    Args:
        shard: The clients that it hosts, by the run's numbers of clients, users and items.
        n_clients: Of the run, on all nodes.
        popularity: int64 [n_items], the weights of items where negatives are drawn by popularity;
            None where they are not.
        slices: What the evaluation measures apart.
        first_stage: Whose candidates are ranked; None: the whole catalogue.
        targets: int64 [t], sorted, the items whose exposure is measured; None: there are none.
    """

    shard: Shard
    n_clients: int
    popularity: IntArray | None = None
    slices: Slices | None = None
    first_stage: FirstStage | None = None
    targets: IntArray | None = None


class ShardSource(Protocol):
    """Where the data of one node comes from."""

    def catalogue(self) -> Catalogue:
        """Return the items of the run."""

    def data(self) -> NodeData:
        """Return what the node knows."""


class PreparedSplit:
    """A part of a prepared split that this machine has: the clients that are dealt to the node.

    Args:
        run: The run with its split.
        partition: Number of the node.
        partitions: Number of nodes.
    """

    def __init__(self, run: OpenRun, partition: int, partitions: int) -> None:
        self._run, self._partition, self._partitions = run, partition, partitions

    def catalogue(self) -> Catalogue:
        """See `ShardSource.catalogue`."""
        return self._run.catalogue

    def data(self) -> NodeData:
        """See `ShardSource.data`."""
        costs, popularity, slices, first_stage = _known_to_all(self._run)
        split = self._run.split
        shard = split.shard(hosted_clients(costs, self._partition, self._partitions))
        targets = self._run.targets
        return NodeData(shard, split.n_clients, popularity, slices, first_stage, targets)


@lru_cache(maxsize=1)
def _known_to_all(
    run: OpenRun,
) -> tuple[FloatArray, IntArray | None, Slices | None, FirstStage | None]:
    """Return the costs of all clients, and what is the same on all nodes of a run."""
    evaluate, split = run.experiment.evaluate, run.split
    by_popularity = run.experiment.train.negative_sampling == "popularity"
    weights = popularity_weights(split) if by_popularity else None
    slices, first_stage = evaluate.slices_of(run.honest), evaluate.first_stage_of(split)
    return training_costs(run.task, split), weights, slices, first_stage
