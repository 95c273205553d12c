"""Clustered averaging: groups of clients whose updates agree, each with parameters of its own."""

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedrec.aggregation.reduce import (
    mean_update,
    reduce_sums,
    sorted_by_client,
    stepped,
)
from fedrec.errors import ConfigError, require
from fedrec.plugins import name_of
from fedrec.seeds import Purpose, bits
from fedrec.types import Aggregate, FloatArray, IntArray, Params, UpdateBatch
from strategies.base import Averaging, State


class Clustered(Averaging):
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
        average: ``per_row``, ``cohort`` or ``sum``; see `strategies.fedavg.FedAvg`.
        weighting: ``uniform``, or ``examples``: by number of train examples.
        server_lr: :math:`\eta`.

    Reference: sattler2020clustered, with k-means for their bipartition; the sketch:
    charikar2002finding.
    """

    reference: ClassVar[str] = "sattler2020clustered"
    needs = "each"

    clusters: int = Field(4, ge=1)
    warmup: int = Field(20, ge=1)
    share: float = Field(0.5, ge=0, le=1)
    buckets: int = Field(16, ge=1)

    def without_effect(self, run: Any) -> list[str]:
        """Say that one group is no grouping, or that the run ends before there are groups."""
        lines, count = super().without_effect(run), run.experiment.rounds.count
        if "item" not in run.task.tables():
            raise ConfigError(
                f"strategy.{name_of('strategies', self)}: groups clients by what they change of "
                f"item rows, and {type(run.task.model).__name__} has none; take another strategy"
            )
        if self.clusters == 1:
            lines.append("clusters: 1 has no effect: this is fedavg; raise it, or take fedavg")
        elif self.warmup >= count:
            lines.append(
                f"clusters: {self.clusters} has no effect: groups are made in round {self.warmup}, "
                f"and rounds.count is {count}; raise that or lower warmup"
            )
        return lines

    def init(self, params: Params, n_clients: int) -> State:
        """Return a state without groups.

        Until there are groups, ``sketches``, float32 [n_clients, b, ...], holds the summed changes
        of each client's item rows, in b buckets. Then the parameters of group g stand under
        ``g/NAME``. ``group`` is int64 [n_clients].
        """
        shape = (n_clients, self.buckets, *params["item"].shape[1:])
        arrays = {
            "sketches": np.zeros(shape, np.float32),
            "group": np.zeros(n_clients, np.int64),
        }
        return State(arrays, {"rounds": 0})

    def groups(self, state: State, client_ids: IntArray) -> IntArray:
        """Return the group of each client; 0 for all during the warm-up."""
        return np.asarray(state.arrays["group"][client_ids])

    def broadcast(self, state: State, params: Params, group: int) -> Params:
        """Return the group's parameters; everybody's during the warm-up."""
        return params if "sketches" in state.arrays else state.below(f"{group}/")

    def apply(self, state: State, params: Params, aggregate: Aggregate) -> tuple[State, Params]:
        """Apply a round in which all clients are in one group."""
        return self.apply_groups(state, params, {0: aggregate})

    def apply_groups(
        self, state: State, params: Params, aggregates: Mapping[int, Aggregate]
    ) -> tuple[State, Params]:
        """Step everybody's parameters, and those of each group; make the groups in their round."""
        batches = {g: p.each for g, p in sorted(aggregates.items()) if p.each is not None}
        everybody = sorted_by_client(list(batches.values()))
        shared = self._mean(params, everybody)
        after = stepped(params, shared, self.server_lr)
        values, group = {"rounds": state.values["rounds"] + 1}, state.arrays["group"]
        of_group = {}
        if "sketches" in state.arrays:
            sketches = state.arrays["sketches"].copy()
            sketches[everybody.client_ids] += self._sketch(everybody)
            if values["rounds"] < self.warmup:
                return State({"sketches": sketches, "group": group}, values), after
            group = _kmeans(sketches.reshape(len(sketches), -1), self.clusters)
            of_group = dict.fromkeys(np.unique(group).tolist(), after)
        else:
            for number in np.unique(group).tolist():
                change = {name: self.share * shared[name] for name in shared}
                if number in batches:
                    mean = self._mean(params, batches[number])
                    change = {n: (1 - self.share) * mean[n] + change[n] for n in shared}
                of_group[number] = stepped(state.below(f"{number}/"), change, self.server_lr)
        arrays = {f"{g}/{name}": array for g, p in of_group.items() for name, array in p.items()}
        return State({"group": group, **arrays}, values), after

    def _mean(self, params: Params, batch: UpdateBatch) -> Mapping[str, FloatArray]:
        return mean_update(params, reduce_sums(batch, self._summed), self.average)

    def _sketch(self, batch: UpdateBatch) -> FloatArray:
        """Add every row to a bucket with a sign, both hashed by item: float32 [c, b, ...]."""
        block, n = batch.tables["item"], len(batch.client_ids)
        hashed = bits(0, Purpose.SKETCH, 0, block.ids, np.zeros(len(block.ids), np.int64))
        bucket = ((hashed >> np.uint64(32)) % np.uint64(self.buckets)).astype(np.int64)
        sign = np.where((hashed & np.uint64(1)) == 1, np.float32(1), np.float32(-1))
        owner = np.repeat(np.arange(n), np.diff(block.offsets))
        sketch = np.zeros((n, self.buckets, *block.values.shape[1:]), np.float32)
        shape = (-1, *[1] * (block.values.ndim - 1))
        np.add.at(sketch, (owner, bucket), block.values * sign.reshape(shape))
        return sketch


def _kmeans(points: FloatArray, clusters: int) -> IntArray:
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
            _, label = kmeans2(directions, k, iter=50, minit="++", rng=np.random.default_rng(0))
        group[pulled] = label
    return group
