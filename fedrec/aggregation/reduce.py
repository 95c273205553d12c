"""What strategies share: exact sums of updates, and what they are divided by."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
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
from fedrec.aggregation.update import Aggregate, Down, RowBlock, UpdateBatch
from fedrec.errors import NumericError
from fedrec.ragged import offsets_of
from fedrec.types import FloatArray, IntArray, Params

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
        """Return how much each client counts, float64 [c], from its train examples, float64 [c]."""
        ones = self.weighting == "uniform"
        return np.ones(len(examples)) if ones else np.asarray(examples, np.float64)

    def factors(self, examples: FloatArray) -> FloatArray:
        """Return what each client's changes are multiplied by, float64 [c]."""
        return self.weights(examples) if self.weighted else np.ones(len(examples))


def reduce_sums(batch: UpdateBatch, summing: Summing) -> Aggregate:
    """Sum the updates of some clients, exactly.

    Args:
        batch: The updates; what is summed already was summed in the same way.
        summing: How.

    Raises:
        NumericError: If an update is not finite or a sum overflows.
    """
    return weighted_sums(batch, summing.weights(batch.weight), summing.factors(batch.weight))


def weighted_sums(batch: UpdateBatch, weight: FloatArray, factors: FloatArray) -> Aggregate:
    """Sum the updates of some clients, and their weights, exactly.

    Args:
        batch: The updates; what is summed already was summed in the same way.
        weight: float64 [c], from 0, what each client adds to the weights of the sums.
        factors: float64 [c], what each client's changes are multiplied by.

    Raises:
        NumericError: If an update is not finite or a sum overflows.
    """
    batch, everybody = batch.decoded(), np.zeros(len(batch.client_ids), np.int64)
    factor = None if (factors == 1.0).all() else factors
    rows = {name: (given.ids, given.sums, given.weight) for name, given in batch.summed.items()}
    for name, block in batch.tables.items():
        rows[name] = sum_rows(block, weight, name, factor)
    totals = {
        name: np.asarray(segment_sum(values, everybody, 1, name, factor)[0])
        for name, values in (*batch.dense.items(), *batch.extras.items())
    }
    sums = {name: total for name, (_, total, _) in rows.items()}
    sums |= {name: totals[name] for name in batch.dense}
    return Aggregate(
        clients=len(batch.client_ids),
        weight=total_of(to_fixed(weight, "weight"), "weight"),
        ids={name: ids for name, (ids, _, _) in rows.items()},
        sums=sums,
        row_weight={name: of_rows for name, (_, _, of_rows) in rows.items()},
        scale=dict.fromkeys(sums, SCALE),
        metrics=_metric_totals(batch),
        extras={name: int(totals[name]) for name in batch.extras},
    )


def keep_each(batch: UpdateBatch) -> Aggregate:
    """Keep the updates of some clients as they travel, in the order of the client ids.

    They are decoded when the server reads the message that carries them (`fedrec.flower.records`).

    Raises:
        NumericError: If a value is not finite.
    """
    check_finite(batch)
    weight, each = total_of(to_fixed(batch.weight, "weight"), "weight"), sorted_by_client([batch])
    return Aggregate(len(batch.client_ids), weight, {}, {}, {}, {}, _metric_totals(batch), {}, each)


def check_finite(batch: UpdateBatch) -> None:
    """Check the updates of clients that are not summed here.

    Raises:
        NumericError: If a value is not finite.
    """
    blocks = {name: block.decoded().values for name, block in batch.tables.items()}
    blocks |= {name: block.decoded().values for name, block in batch.coded.items()}
    for name, values in {**blocks, **batch.dense, **batch.extras}.items():
        if not np.isfinite(values).all():
            raise NumericError(f"the update of '{name}' is not finite")


def merge(a: Aggregate, b: Aggregate) -> Aggregate:
    """Join two partial results; associative and commutative, exactly.

    Raises:
        NumericError: If a sum overflows.
    """
    rows = {
        name: merge_rows(
            (a.ids[name], a.sums[name], a.row_weight[name]),
            (b.ids[name], b.sums[name], b.row_weight[name]),
            name,
        )
        for name in a.ids
    }
    sums = {n: rows[n][1] if n in rows else add(a.sums[n], b.sums[n], n) for n in a.sums}
    return Aggregate(
        clients=a.clients + b.clients,
        weight=checked(a.weight + b.weight, "weight"),
        ids={name: ids for name, (ids, _, _) in rows.items()},
        sums=sums,
        row_weight={name: weight for name, (_, _, weight) in rows.items()},
        scale=a.scale,
        metrics={name: a.metrics[name] + b.metrics[name] for name in a.metrics},
        extras={name: checked(a.extras[name] + b.extras[name], name) for name in a.extras},
        each=sorted_by_client([a.each, b.each]) if a.each and b.each else None,
    )


def joined(batches: Sequence[UpdateBatch]) -> UpdateBatch:
    """Return updates of different clients, in one form, as one batch, in the order given."""
    first = batches[0]
    if len(batches) == 1:
        return first

    def columns(kind: str) -> dict[str, FloatArray]:
        values = [getattr(batch, kind) for batch in batches]
        return {name: np.concatenate([each[name] for each in values]) for name in values[0]}

    def rows(kind: str) -> dict[str, RowBlock]:
        blocks = [getattr(batch, kind) for batch in batches]
        return {name: _joined_rows([each[name] for each in blocks]) for name in blocks[0]}

    return UpdateBatch(
        round=first.round,
        client_ids=np.concatenate([batch.client_ids for batch in batches]),
        weight=np.concatenate([batch.weight for batch in batches]),
        tables=rows("tables"),
        dense=columns("dense"),
        metrics=columns("metrics"),
        extras=columns("extras"),
        coded=rows("coded"),
    )


def _joined_rows(blocks: Sequence[RowBlock]) -> RowBlock:
    scales = [block.scale for block in blocks if block.scale is not None]
    return RowBlock(
        offsets_of(np.concatenate([np.diff(block.offsets) for block in blocks])),
        np.concatenate([block.ids for block in blocks]),
        np.concatenate([block.values for block in blocks]),
        np.concatenate(scales) if scales else None,
        blocks[0].basis,
        blocks[0].sparse,
    )


def sorted_by_client(batches: Sequence[UpdateBatch]) -> UpdateBatch:
    """Return updates of different clients as one batch, in the order of the client ids."""
    batch = batches[0] if len(batches) == 1 else joined(batches)
    ids = batch.client_ids
    is_sorted = bool((ids[1:] > ids[:-1]).all())
    return batch if is_sorted else batch.take(np.argsort(ids, kind="stable"))


def _metric_totals(batch: UpdateBatch) -> dict[str, int]:
    return {
        name: int(to_fixed(values, name, _METRICS_SCALE).sum())
        for name, values in batch.metrics.items()
    }


def metric_sums(aggregates: Iterable[Aggregate]) -> dict[str, float]:
    """Return the metrics, summed over all clients of some partial results."""
    total: Counter[str] = Counter()
    for aggregate in aggregates:
        total.update(aggregate.metrics)
    return {name: value * 2.0**-_METRICS_SCALE for name, value in total.items()}


def mean_update(
    params: Params, aggregate: Aggregate, average: Average, floor: int = 0
) -> Mapping[str, FloatArray]:
    """Return the aggregated change of every shared parameter, dense.

    Args:
        params: The shared parameters, for their shapes.
        aggregate: The summed updates.
        average: See `Average`.
        floor: With ``per_row``, a row is divided by the weight of so many clients at least, each
            with the mean weight of the cohort.

    Returns:
        Per name, float64 of the parameter's shape; 0 where nobody touched a row.
    """
    # Without weight there is nothing to divide.
    cohort = float(from_fixed(np.array(aggregate.weight))) or 1.0
    least = floor * cohort / aggregate.clients if floor else 0.0
    change: dict[str, FloatArray] = {}
    for name, value in params.items():
        total = from_fixed(aggregate.sums[name], aggregate.scale[name])
        if average == "per_row" and name in aggregate.ids:
            touched = np.maximum(from_fixed(aggregate.row_weight[name]), least)
            touched[touched == 0] = 1.0
            total = total / touched.reshape(-1, *[1] * (total.ndim - 1))
        elif average != "sum":
            total = total / cohort
        change[name] = total
        if name in aggregate.ids:
            change[name] = np.zeros(value.shape, np.float64)
            change[name][aggregate.ids[name]] = total
    return change


def touched_rows(aggregate: Aggregate) -> Mapping[str, IntArray]:
    """Return the rows of each item table that somebody changed, int64 [m], sorted."""
    if aggregate.each is None:
        return aggregate.ids
    tables = aggregate.each.tables
    return {name: np.flatnonzero(np.bincount(block.ids)) for name, block in tables.items()}


def stepped(params: Params, change: Mapping[str, FloatArray], rate: float) -> Params:
    """Return the shared parameters after a step: ``params + rate * change``, float32.

    Args:
        params: The shared parameters.
        change: Per name, float64 of the parameter's shape, as from `mean_update`.
        rate: Step size.
    """
    return {
        name: np.asarray(value + rate * change[name], np.float32) for name, value in params.items()
    }


VALUE_BYTES = 4
"""Of a float32 value."""


def download_bytes(down: Down) -> int:
    """Count the bytes that the server sends to one client to train with: every value as float32.

    Args:
        down: What the strategy broadcasts: the shared parameters, dense, and what it sends beside
            them. Of base values a client receives the sum that is its own.
    """
    shared = sum(VALUE_BYTES * np.asarray(value).size for value in down.shared.values())
    return shared + sum(VALUE_BYTES * prod(mix.bases.shape[1:]) for mix in down.own.values())
