"""What strategies share: exact sums of updates, and what they are divided by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from fedrec.fixedpoint import SCALE, add, from_fixed, segment_sum, to_fixed
from fedrec.types import FloatArray, IntArray, Params, Partial, UpdateBatch

__all__ = [
    "Denominator",
    "Weighting",
    "mean_update",
    "merge_sums",
    "metric_sums",
    "reduce_sums",
]

Weighting = Literal["uniform", "examples"]
"""Whether every client counts the same, or by its number of train examples."""

Denominator = Literal["rows", "cohort", "sum"]
"""What a row's summed change is divided by: the weight of the clients that touched the row, the
weight of all clients of the cohort, or nothing. Dense parameters know no rows: for them ``rows``
is ``cohort``."""

_METRICS_SCALE = 20


def reduce_sums(batch: UpdateBatch, weighting: Weighting, weighted: bool = True) -> Partial:
    """Sum the updates of some clients, exactly.

    Args:
        batch: The updates.
        weighting: How much each client counts.
        weighted: Whether changes are multiplied by the weights (not for plain sums).

    Raises:
        NumericError: If an update is not finite or a sum overflows.
    """
    n_clients = len(batch.client_ids)
    weight = np.ones(n_clients) if weighting == "uniform" else np.asarray(batch.weight, np.float64)
    ids, sums, row_weight = {}, {}, {}
    for name, block in batch.tables.items():
        owner = np.repeat(np.arange(n_clients), np.diff(block.offsets))
        counts = np.bincount(block.ids)
        ids[name] = np.flatnonzero(counts).astype(np.int64)
        place = (np.cumsum(counts > 0) - 1)[block.ids]
        values = _weigh(block.values, weight[owner], weighting, weighted)
        sums[name] = segment_sum(values, place, len(ids[name]), name)
        row_weight[name] = segment_sum(weight[owner], place, len(ids[name]), "weight")
    for name, change in batch.dense.items():
        values = _weigh(change, weight, weighting, weighted)
        total = segment_sum(values, np.zeros(n_clients, np.int64), 1, name)
        sums[name] = np.asarray(total[0])
    return Partial(
        clients=n_clients,
        weight=int(to_fixed(weight, "weight").sum()),
        ids=ids,
        sums=sums,
        row_weight=row_weight,
        scale=dict.fromkeys(sums, SCALE),
        metrics={
            name: int(to_fixed(values, name, _METRICS_SCALE).sum())
            for name, values in batch.metrics.items()
        },
    )


def _weigh(
    values: FloatArray, weight: FloatArray, weighting: Weighting, weighted: bool
) -> FloatArray:
    if weighting == "uniform" or not weighted:
        return values
    return np.asarray(values, np.float64) * weight.reshape(-1, *[1] * (values.ndim - 1))


def merge_sums(a: Partial, b: Partial) -> Partial:
    """The sum of two partial sums; associative and commutative, exactly.

    Raises:
        NumericError: If a sum overflows.
    """
    ids, sums, row_weight = {}, {}, {}
    for name in a.sums:
        if name not in a.ids:
            sums[name] = add(a.sums[name], b.sums[name], name)
            continue
        ids[name] = np.union1d(a.ids[name], b.ids[name])
        at = [np.searchsorted(ids[name], part.ids[name]) for part in (a, b)]
        sums[name] = add(
            _placed(a.sums[name], at[0], len(ids[name])),
            _placed(b.sums[name], at[1], len(ids[name])),
            name,
        )
        row_weight[name] = add(
            _placed(a.row_weight[name], at[0], len(ids[name])),
            _placed(b.row_weight[name], at[1], len(ids[name])),
            name,
        )
    return Partial(
        clients=a.clients + b.clients,
        weight=a.weight + b.weight,
        ids=ids,
        sums=sums,
        row_weight=row_weight,
        scale=a.scale,
        metrics={name: a.metrics[name] + b.metrics[name] for name in a.metrics},
    )


def _placed(values: IntArray, at: IntArray, n: int) -> IntArray:
    out = np.zeros((n, *values.shape[1:]), np.int64)
    out[at] = values
    return out


def metric_sums(partial: Partial) -> dict[str, float]:
    """The metrics, summed over the clients of a partial sum."""
    return {name: value * 2.0**-_METRICS_SCALE for name, value in partial.metrics.items()}


def mean_update(
    params: Params, partial: Partial, denominator: Denominator
) -> Mapping[str, FloatArray]:
    """The aggregated change of every global parameter, dense.

    Args:
        params: The global parameters, for their shapes.
        partial: The summed updates.
        denominator: See `Denominator`.

    Returns:
        Per name, float64 of the parameter's shape; 0 where nobody touched a row.
    """
    cohort = max(float(from_fixed(np.array(partial.weight))), 1.0 if partial.weight == 0 else 0.0)
    change: dict[str, FloatArray] = {}
    for name, value in params.items():
        total = from_fixed(partial.sums[name], partial.scale[name])
        if name not in partial.ids:
            change[name] = total if denominator == "sum" else total / cohort
            continue
        if denominator == "rows":
            touched = from_fixed(partial.row_weight[name])
            total = total / touched.reshape(-1, *[1] * (total.ndim - 1))
        elif denominator == "cohort":
            total = total / cohort
        whole = np.zeros(value.shape, np.float64)
        whole[partial.ids[name]] = total
        change[name] = whole
    return change
