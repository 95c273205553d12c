"""Clustered averaging: groups of clients whose updates agree, each with parameters of its own."""

import warnings
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedrec.aggregation.reduce import (
    Average,
    Summing,
    Weighting,
    mean_update,
    reduce_sums,
    sorted_by_client,
    stepped,
)
from fedrec.aggregation.sketch import count_sketch
from fedrec.aggregation.update import Aggregates, Down, Mix, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError, require
from fedrec.plugins import name_of
from fedrec.types import FloatArray, IntArray, Params, State
from strategies.base import Payload, Strategy


class Clustered(Strategy):
    r"""Federated averaging within groups of clients that pull the items in like directions.

    For ``warmup`` rounds all clients train the same parameters, and the server keeps a sketch of
    the summed change of each (a count sketch of its item rows: it preserves inner products in the
    mean). Then k-means on the sketches, each of length 1, makes the groups, once. From then on
    group g has parameters of its own:

    .. math:: x_g \leftarrow x_g + \eta \left( (1 - s) \, \bar\Delta_g + s \, \bar\Delta \right)

    A client without an update in the warm-up belongs to group 0. The server sees each client's
    update.

    Args:
        clusters: number of groups.
        warmup: rounds before the groups are made.
        share: s, how much a group takes from everybody's mean.
        buckets: size of the sketch, in item rows.
        average: ``per_row``, ``cohort`` or ``sum``, as for the aggregation ``mean``.
        weighting: ``uniform``, or ``examples``: by number of train examples.
        server_lr: :math:`\eta`.

    Reference: sattler2020clustered, with k-means for their bipartition; the sketch:
    charikar2002finding.
    """

    reference: ClassVar[str] = "sattler2020clustered"
    needs: ClassVar[Literal["sums", "each"]] = "each"
    payload: ClassVar[Payload] = "group"

    clusters: int = Field(4, ge=1)
    warmup: int = Field(20, ge=1)
    share: float = Field(0.5, ge=0, le=1)
    buckets: int = Field(16, ge=1)
    average: Average = "per_row"
    weighting: Weighting = "uniform"
    server_lr: float = Field(1.0, gt=0)

    def without_effect(self, run: Any) -> list[str]:
        """Say that one group is no grouping, or that the run ends before there are groups."""
        lines, count = [], run.experiment.rounds.count
        if self.average == "sum":
            lines = self.unused("updates are added up unweighted", "weighting")
        if "item" not in run.task.tables():
            raise ConfigError(
                f"strategy.{name_of('strategies', self)}: groups clients by what they change of "
                f"item rows, and {type(run.task.model).__name__} has none; take another strategy"
            )
        if self.clusters == 1:
            lines.append("clusters: 1 has no effect: this is fedavg; raise it, or take fedavg")
        elif self.share == 1:
            lines.append("share: 1 has no effect: every group takes the mean of all; lower it")
        elif self.warmup >= count:
            lines.append(
                f"clusters: {self.clusters} has no effect: groups are made in round {self.warmup}, "
                f"and rounds.count is {count}; raise that or lower warmup"
            )
        return lines

    def init(self, params: Params, context: RoundContext) -> State:
        """Return a state without groups.

        Until there are groups, ``sketches``, float32 [n_clients, b, ...], holds the summed changes
        of each client's item rows, in b buckets. Then the parameters of all k groups stand under
        ``groups/NAME``, [k, ...]. ``group`` is int64 [n_clients].
        """
        shape = (context.n_clients, self.buckets, *params["item"].shape[1:])
        sketches, group = np.zeros(shape, np.float32), np.zeros(context.n_clients, np.int64)
        return State({"sketches": sketches, "group": group})

    def groups(self, state: State, client_ids: IntArray) -> IntArray:
        """Return the group of each client; 0 for all during the warm-up."""
        return np.asarray(state.arrays["group"][client_ids])

    def broadcast(
        self, state: State, params: Params, client_ids: IntArray, context: RoundContext
    ) -> Down:
        """Return the parameters of each client's group; everybody's during the warm-up."""
        if "sketches" in state.arrays:
            return Down(params)
        bases = state.below("groups/")
        k = len(next(iter(bases.values())))
        weights = np.eye(k, dtype=np.float32)[self.groups(state, client_ids)]
        return Down({}, {name: Mix(values, weights) for name, values in bases.items()})

    def apply(
        self, state: State, params: Params, aggregates: Aggregates, context: RoundContext
    ) -> tuple[State, Params]:
        """Step everybody's parameters, and those of each group; make the groups in their round."""
        batches = {g: p.each for g, p in sorted(aggregates.items()) if p.each is not None}
        everybody = sorted_by_client(list(batches.values()))
        shared = self._mean(params, everybody)
        after, group = stepped(params, shared, self.server_lr), state.arrays["group"]
        if "sketches" in state.arrays:
            sketches = state.arrays["sketches"].copy()
            sketches[everybody.client_ids] += count_sketch(everybody.tables["item"], self.buckets)
            if context.round < self.warmup:
                return State({"sketches": sketches, "group": group}), after
            generator = context.generator("clustered")
            group = _kmeans(sketches.reshape(len(sketches), -1), self.clusters, generator)
            of_groups = [after] * (int(group.max(initial=0)) + 1)
        else:
            before, of_groups = state.below("groups/"), []
            for number in range(len(next(iter(before.values())))):
                change = {name: self.share * shared[name] for name in shared}
                if number in batches:
                    mean = self._mean(params, batches[number])
                    change = {n: (1 - self.share) * mean[n] + change[n] for n in shared}
                of_group = {name: values[number] for name, values in before.items()}
                of_groups.append(stepped(of_group, change, self.server_lr))
        arrays = {f"groups/{name}": np.stack([p[name] for p in of_groups]) for name in params}
        return State({"group": group, **arrays}), after

    def _mean(self, params: Params, batch: UpdateBatch) -> Params:
        summing = Summing(self.weighting, weighted=self.average != "sum")
        return mean_update(params, reduce_sums(batch, summing), self.average)


def _kmeans(points: FloatArray, clusters: int, generator: np.random.Generator) -> IntArray:
    """Return the cluster of each point, int64 [n]; 0 for a point at the origin."""
    require("scipy", "for the strategy clustered")
    from scipy.cluster.vq import kmeans2

    length = np.sqrt((points.astype(np.float64) ** 2).sum(1))
    pulled = np.flatnonzero(length > 0)
    group = np.zeros(len(points), np.int64)
    directions = points[pulled] / length[pulled, None]
    k = min(clusters, len(np.unique(directions, axis=0)))
    if k > 1:
        # An empty cluster keeps its old centre: fewer groups are no fault.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            _, label = kmeans2(directions, k, iter=50, minit="++", rng=generator)
        group[pulled] = label
    return group
