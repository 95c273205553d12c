"""Which node hosts which clients: consecutive ones, so that all nodes finish together."""

import numpy as np

from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, IntArray, Split


def hosted_clients(costs: FloatArray, partition: int, partitions: int) -> IntArray:
    """Return the clients that a node hosts, consecutive ones; all nodes host each client once.

    Args:
        costs: float [n_clients], what each costs to train, in any unit: nodes get equal sums, as
            far as whole clients allow, so that they finish together.
        partition: number of the node.
        partitions: number of nodes, at most n_clients.

    Returns:
        int64, sorted, at least one.
    """
    ends = np.cumsum(costs, dtype=np.float64)
    # A client belongs where its middle falls.
    middle = ends - np.asarray(costs) / 2
    wanted = ends[-1] * np.arange(1, partitions) / partitions
    cuts = np.searchsorted(middle, wanted)
    # Nobody stays without a client, neither in front nor at the end.
    numbers = np.arange(1, partitions)
    cuts = np.maximum.accumulate(np.maximum(cuts - numbers, 0)) + numbers
    cuts = np.minimum(cuts, len(ends) - partitions + numbers)
    bounds = [0, *cuts.tolist(), len(ends)]
    return np.arange(bounds[partition], bounds[partition + 1], dtype=np.int64)


def training_costs(task: ClientTask, split: Split) -> FloatArray:
    """Return what each client costs to train: touched rows and a bit for itself, [n_clients]."""
    n = split.train.lengths[split.clients.values]
    rows = n * (1 + task.train.negatives) * sum(len(phase.views) for phase in task.epochs.values())
    of_user = 8.0 + rows * task.personalization.row_cost(n)
    return np.bincount(split.clients.owners(), of_user, split.n_clients)
