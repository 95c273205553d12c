"""What strategies share: exact sums of updates, and what they are divided by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedrec.aggregation.fixed_point import (
    SCALE,
    add,
    checked,
    from_fixed,
    merge_rows,
    segment_sum,
    sum_rows,
    to_fixed,
    total_of,
)
from fedrec.types import (
    Aggregate,
    FloatArray,
    Params,
    Ragged,
    RowBlock,
    UpdateBatch,
    offsets_of,
)

__all__ = [
    "Average",
    "Summing",
    "Weighting",
    "join_each",
    "keep_each",
    "mean_update",
    "merge_sums",
    "metric_sums",
    "reduce_sums",
    "sorted_by_client",
    "stepped",
]

Weighting = Literal["uniform", "examples"]
"""Whether every client counts the same, or by its number of train examples."""

Average = Literal["per_row", "cohort", "sum"]
"""What a row's summed change is divided by: the weight of the clients that touched the row, the
weight of all clients of the cohort, or nothing. Dense parameters know no rows: for them
``per_row`` is ``cohort``."""

_METRICS_SCALE = 20


@dataclass(frozen=True, slots=True)
class Summing:
    """How the changes of clients are summed.

    Args:
        weighting: How much each client counts.
        weighted: Whether changes are multiplied by the weights (not for plain sums).
    """

    weighting: Weighting = "uniform"
    weighted: bool = True

    def weights(self, examples: FloatArray) -> FloatArray:
        """float64 [c]: how much each client counts; ``examples`` [c] are its train examples."""
        ones = self.weighting == "uniform"
        return np.ones(len(examples)) if ones else np.asarray(examples, np.float64)

    def factors(self, examples: FloatArray) -> FloatArray:
        """float64 [c]: what each client's changes are multiplied by."""
        return self.weights(examples) if self.weighted else np.ones(len(examples))


def reduce_sums(batch: UpdateBatch, summing: Summing) -> Aggregate:
    """Sum the updates of some clients, exactly.

    Args:
        batch: The updates; what is summed already was summed in the same way.
        summing: How.

    Raises:
        NumericError: If an update is not finite or a sum overflows.
    """
    n_clients = len(batch.client_ids)
    weight, factor = summing.weights(batch.weight), summing.factors(batch.weight)
    ids, sums, row_weight = {}, {}, {}
    for name, rows in batch.summed.items():
        ids[name], sums[name], row_weight[name] = rows.ids, rows.sums, rows.weight
    for name, block in batch.tables.items():
        ids[name], sums[name], row_weight[name] = sum_rows(
            block.values, block.ids, block.offsets, factor, weight, name
        )
    for name, change in batch.dense.items():
        values = _weigh(change, factor)
        total = segment_sum(values, np.zeros(n_clients, np.int64), 1, name)
        sums[name] = np.asarray(total[0])
    return Aggregate(
        clients=n_clients,
        weight=total_of(to_fixed(weight, "weight"), "weight"),
        ids=ids,
        sums=sums,
        row_weight=row_weight,
        scale=dict.fromkeys(sums, SCALE),
        metrics=_metric_totals(batch),
        extras={
            name: total_of(to_fixed(_weigh(values, factor), name), name)
            for name, values in batch.extras.items()
        },
    )


def _weigh(values: FloatArray, factor: FloatArray) -> FloatArray:
    if (factor == 1.0).all():
        return values
    return np.asarray(values, np.float64) * factor.reshape(-1, *[1] * (values.ndim - 1))


def merge_sums(a: Aggregate, b: Aggregate) -> Aggregate:
    """The sum of two partial sums; associative and commutative, exactly.

    Raises:
        NumericError: If a sum overflows.
    """
    ids, sums, row_weight = {}, {}, {}
    for name in a.sums:
        if name not in a.ids:
            sums[name] = add(a.sums[name], b.sums[name], name)
            continue
        ids[name], sums[name], row_weight[name] = merge_rows(
            (a.ids[name], a.sums[name], a.row_weight[name]),
            (b.ids[name], b.sums[name], b.row_weight[name]),
            name,
        )
    return Aggregate(
        clients=a.clients + b.clients,
        weight=checked(a.weight + b.weight, "weight"),
        ids=ids,
        sums=sums,
        row_weight=row_weight,
        scale=a.scale,
        metrics={name: a.metrics[name] + b.metrics[name] for name in a.metrics},
        extras={name: checked(a.extras[name] + b.extras[name], name) for name in a.extras},
    )


def keep_each(batch: UpdateBatch) -> Aggregate:
    """The updates of some clients as they are, in the order of the client ids."""
    return Aggregate(
        clients=len(batch.client_ids),
        weight=total_of(to_fixed(batch.weight, "weight"), "weight"),
        ids={},
        sums={},
        row_weight={},
        scale={},
        metrics=_metric_totals(batch),
        each=sorted_by_client([batch]),
    )


def join_each(a: Aggregate, b: Aggregate) -> Aggregate:
    """All updates of two partial results that hold each client's own.

    Raises:
        ValueError: If one holds sums.
    """
    if a.each is None or b.each is None:
        raise ValueError("a partial sum cannot be joined with updates of single clients")
    return Aggregate(
        clients=a.clients + b.clients,
        weight=checked(a.weight + b.weight, "weight"),
        ids={},
        sums={},
        row_weight={},
        scale={},
        metrics={name: a.metrics[name] + b.metrics[name] for name in a.metrics},
        each=sorted_by_client([a.each, b.each]),
    )


def sorted_by_client(batches: Sequence[UpdateBatch]) -> UpdateBatch:
    """Updates of different clients as one batch, in the order of the client ids."""
    first = batches[0]
    ids = np.concatenate([batch.client_ids for batch in batches])
    order = np.argsort(ids, kind="stable")
    tables = {}
    for name in first.tables:
        blocks = [batch.tables[name] for batch in batches]
        lengths = np.concatenate([np.diff(block.offsets) for block in blocks])
        rows = Ragged(offsets_of(lengths), np.concatenate([block.ids for block in blocks]))
        at = rows.positions(order)
        values = np.concatenate([block.values for block in blocks])
        tables[name] = RowBlock(offsets_of(lengths[order]), rows.values[at], values[at])
    return UpdateBatch(
        round=first.round,
        client_ids=ids[order],
        weight=np.concatenate([batch.weight for batch in batches])[order],
        tables=tables,
        dense={n: np.concatenate([b.dense[n] for b in batches])[order] for n in first.dense},
        metrics={n: np.concatenate([b.metrics[n] for b in batches])[order] for n in first.metrics},
        extras={n: np.concatenate([b.extras[n] for b in batches])[order] for n in first.extras},
    )


def _metric_totals(batch: UpdateBatch) -> dict[str, int]:
    return {
        name: int(to_fixed(values, name, _METRICS_SCALE).sum())
        for name, values in batch.metrics.items()
    }


def metric_sums(aggregates: Iterable[Aggregate]) -> dict[str, float]:
    """The metrics, summed over all clients of some partial results."""
    total: Counter[str] = Counter()
    for aggregate in aggregates:
        total.update(aggregate.metrics)
    return {name: value * 2.0**-_METRICS_SCALE for name, value in total.items()}


def mean_update(params: Params, aggregate: Aggregate, average: Average) -> Mapping[str, FloatArray]:
    """The aggregated change of every global parameter, dense.

    Args:
        params: The global parameters, for their shapes.
        aggregate: The summed updates.
        average: See `Average`.

    Returns:
        Per name, float64 of the parameter's shape; 0 where nobody touched a row.
    """
    cohort = max(
        float(from_fixed(np.array(aggregate.weight))), 1.0 if aggregate.weight == 0 else 0.0
    )
    change: dict[str, FloatArray] = {}
    for name, value in params.items():
        total = from_fixed(aggregate.sums[name], aggregate.scale[name])
        if name not in aggregate.ids:
            change[name] = total if average == "sum" else total / cohort
            continue
        if average == "per_row":
            touched = from_fixed(aggregate.row_weight[name])
            total = total / touched.reshape(-1, *[1] * (total.ndim - 1))
        elif average == "cohort":
            total = total / cohort
        whole = np.zeros(value.shape, np.float64)
        whole[aggregate.ids[name]] = total
        change[name] = whole
    return change


def stepped(params: Params, change: Mapping[str, FloatArray], rate: float) -> Params:
    """The global parameters after a step: ``params + rate * change``, float32.

    Args:
        params: The global parameters.
        change: Per name, float64 of the parameter's shape, as from `mean_update`.
        rate: Step size.
    """
    return {
        name: np.asarray(value + rate * change[name], np.float32) for name, value in params.items()
    }
