"""Which worker hosts which node: as many as it can do in the time of the others."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

LEAST_GAIN = 0.15
"""Of the time of the slowest worker. Less is noise, and a node that changes its worker costs."""

EXCHANGES = 5
"""How many exchanges are measured before nodes may change their worker."""


class Placement:
    """The worker of each node: in turn at first, then by what nodes took.

    Args:
        n_nodes: Number of nodes, which are 1 to N.
        n_workers: Number of workers, at most as many.
    """

    def __init__(self, n_nodes: int, n_workers: int) -> None:
        self._workers = [node % n_workers for node in range(n_nodes)]
        self._moves = n_nodes > n_workers
        self._seconds: defaultdict[int, float] = defaultdict(float)
        self._exchanges = 0

    def worker(self, node: int) -> int:
        """Return the worker of a node."""
        return self._workers[node - 1]

    def measure(self, seconds: Mapping[int, float]) -> None:
        """Take in what nodes took in an exchange, in seconds by node; nodes may change workers."""
        for node, spent in seconds.items():
            self._seconds[node] += spent
        self._exchanges += bool(seconds)
        if self._moves and self._exchanges == EXCHANGES:
            in_all = [self._seconds[node] for node in range(1, len(self._workers) + 1)]
            self._workers = placed_by_speed(self._workers, in_all)
            self._seconds.clear()
            self._exchanges = 0


def placed_by_speed(workers: Sequence[int], seconds: Sequence[float]) -> list[int]:
    """Return a worker for each node, so that all workers are expected to end together.

    Clients are dealt to nodes by their costs, so nodes cost the same: how long one takes tells the
    speed of its worker.

    Args:
        workers: The worker of each node, as it is. Each has a node, and keeps one.
        seconds: How long each node has worked.

    Returns:
        As it is, if the slowest worker would not gain `LEAST_GAIN`.
    """
    have = Counter(workers)
    each = dict.fromkeys(have, 0.0)
    for worker, spent in zip(workers, seconds, strict=True):
        each[worker] += spent / have[worker]
    wanted = Counter(have.keys())
    for _ in range(len(workers) - len(have)):
        wanted[min(sorted(have), key=lambda worker: (wanted[worker] + 1) * each[worker])] += 1
    slowest = [max(counts[worker] * each[worker] for worker in have) for counts in (have, wanted)]
    if slowest[1] > slowest[0] * (1 - LEAST_GAIN):
        return list(workers)
    placed, free = list(workers), [*(wanted - have).elements()]
    surplus = have - wanted
    for node, worker in reversed([*enumerate(workers)]):
        if surplus[worker] > 0:
            surplus[worker] -= 1
            placed[node] = free.pop()
    return placed
