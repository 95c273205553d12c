"""Those who do the same work otherwise: what they are given, and what they must give back."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedrec.config.experiment import load_experiment
from fedrec.data.negatives import uniform_negatives
from fedrec.data.prepare import open_split
from fedrec.seeds import Purpose, bits
from fedrec.training.initial_values import initial_local
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, IntArray, Params, Shard

__all__ = ["Competitor", "Task", "negatives_of", "open_task"]


@dataclass(frozen=True, slots=True)
class Task:
    """A share of the clients, one user each, with the parameters that they start from.

    Args:
        task: What is trained.
        shard: The clients.
        params: The global parameters.
        local: The local parameters, per user.
    """

    task: ClientTask
    shard: Shard
    params: Params
    local: Params


def open_task(folder: Path, client_ids: IntArray) -> Task:
    """Open what `experiments.benchmarks.workload.Workload.write` wrote, for some clients.

    Args:
        folder: Where it lies.
        client_ids: int64 [c], sorted.
    """
    split = open_split(folder / "split")
    task = load_experiment(folder / "config.yaml").client_task()
    shard = split.shard(client_ids)
    local = {
        name: initial_local(task.seed, name, spec, shard.user_ids)
        for name, spec in task.stored_specs().items()
    }
    return Task(task, shard, task.initial_globals(split.n_items), local)


class Competitor(ABC):
    """Trains its clients round by round; the global table stays, the users move on.

    Args:
        work: The clients and the method.

    Attributes:
        work: The same.
        table: float32 [n_items, d], the global table.
        total: float [n_items, d], the summed change of the table in the last round.
    """

    def __init__(self, work: Task) -> None:
        self.work = work
        self.table: FloatArray = np.ascontiguousarray(work.params["item"], np.float32)
        self.total: FloatArray = np.zeros_like(self.table)

    @abstractmethod
    def round(self, number: int) -> float:
        """Train every client once, with the draws of a round.

        Args:
            number: Of the round.

        Returns:
            The loss, summed over the clients.
        """

    @property
    @abstractmethod
    def users(self) -> FloatArray:
        """float32 [u, d], the users' vectors now."""

    @property
    @abstractmethod
    def share(self) -> FloatArray | None:
        """float32 [u], PLGC's weights now; None without PLGC."""


def negatives_of(work: Task, number: int) -> IntArray:
    """int64 [positives * k]: the sampled negatives of a round, positive after positive."""
    shard, k = work.shard, work.task.train.negatives
    user = shard.train.owners()
    within = np.arange(len(user), dtype=np.int64) - shard.train.offsets[:-1][user]
    owner = np.repeat(user, k)
    draw = (within[:, None] * k + np.arange(k)).ravel()
    drawn = bits(work.task.seed, Purpose.NEGATIVES, number, shard.user_ids[owner], draw)
    high = (drawn >> np.uint64(32)).astype(np.uint32)
    return uniform_negatives(high, owner, shard.train, shard.n_items)
