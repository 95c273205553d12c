"""Sums of updates against a plain loop over clients, and against Flower's own mean."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.reduce import (
    Average,
    Summing,
    Weighting,
    keep_each,
    mean_update,
    merge,
    metric_sums,
    reduce_sums,
)
from fedrec.aggregation.update import RowBlock, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.errors import NumericError
from fedrec.ragged import offsets_of
from fedrec.types import FloatArray
from strategies import FedAvg

N_ITEMS, DIM = 6, 2
PARAMS = {
    "item": np.linspace(-1, 1, N_ITEMS * DIM).reshape(N_ITEMS, DIM).astype(np.float32),
    "bias": np.linspace(0, 1, N_ITEMS).astype(np.float32),
    "head": np.array([0.5, -0.5, 2.0], np.float32),
    "constant": np.array(0.25, np.float32),
}


@st.composite
def batches(draw: st.DrawFn, least: int = 1) -> UpdateBatch:
    """Some clients that touch some rows and move two dense parameters, one of them a number."""
    n = draw(st.integers(least, 6))
    rows = [sorted(draw(st.sets(st.integers(0, N_ITEMS - 1)))) for _ in range(n)]
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    ids = np.array([item for row in rows for item in row], np.int64)
    offsets = offsets_of(np.array([len(row) for row in rows], np.int64))
    tables = {
        "item": RowBlock(offsets, ids, rng.standard_normal((len(ids), DIM)).astype(np.float32)),
        "bias": RowBlock(offsets, ids, rng.standard_normal(len(ids)).astype(np.float32)),
    }
    dense = {
        "head": rng.standard_normal((n, 3)).astype(np.float32),
        "constant": rng.standard_normal(n).astype(np.float32),
    }
    weight = rng.integers(1, 50, n).astype(np.float64)
    loss = rng.random(n)
    return UpdateBatch(1, np.arange(n), weight, tables, dense, {"loss": loss})


def whole_updates(batch: UpdateBatch) -> list[dict[str, FloatArray]]:
    """Each client's change of every parameter, dense."""
    updates = []
    for client in range(len(batch.client_ids)):
        change: dict[str, FloatArray] = {name: v[client] for name, v in batch.dense.items()}
        for name, block in batch.tables.items():
            at = slice(int(block.offsets[client]), int(block.offsets[client + 1]))
            change[name] = np.zeros_like(PARAMS[name])
            change[name][block.ids[at]] = block.values[at]
        updates.append(change)
    return updates


def touched(batch: UpdateBatch) -> FloatArray:
    """bool [clients, items]."""
    block = batch.tables["item"]
    is_touched = np.zeros((len(batch.client_ids), N_ITEMS), bool)
    is_touched[np.repeat(np.arange(len(is_touched)), np.diff(block.offsets)), block.ids] = True
    return is_touched


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
@pytest.mark.parametrize("average", ["per_row", "cohort", "sum"])
@settings(max_examples=30, deadline=None)
@given(batch=batches())
def test_the_mean_is_a_loop_over_clients(
    batch: UpdateBatch, weighting: Weighting, average: Average
) -> None:
    aggregate = reduce_sums(batch, Summing(weighting, weighted=average != "sum"))
    mean = mean_update(PARAMS, aggregate, average)
    weight = np.ones_like(batch.weight) if weighting == "uniform" else batch.weight
    changes, rows = whole_updates(batch), touched(batch)
    for name, value in PARAMS.items():
        factor = np.ones_like(weight) if average == "sum" else weight
        total = sum(
            w * np.asarray(c[name], np.float64) for w, c in zip(factor, changes, strict=True)
        )
        below: FloatArray = np.array(weight.sum())
        if average == "sum":
            below = np.array(1.0)
        elif average == "per_row" and name in batch.tables:
            below = np.maximum(weight @ rows, 1e-9).reshape(-1, *[1] * (value.ndim - 1))
        np.testing.assert_allclose(mean[name], total / below, atol=1e-8, err_msg=name)
        assert mean[name].shape == value.shape


@settings(max_examples=30, deadline=None)
@given(batch=batches())
def test_the_cohort_mean_is_flowers(batch: UpdateBatch) -> None:
    """Flower averages whole parameters; ours averages the rows that moved."""
    replies = []
    for weight, change in zip(batch.weight, whole_updates(batch), strict=True):
        arrays = ArrayRecord(
            {n: Array(np.asarray(PARAMS[n].astype(np.float64) + change[n])) for n in PARAMS}
        )
        metrics = MetricRecord({"num-examples": int(weight)})
        replies.append(RecordDict({"arrays": arrays, "metrics": metrics}))
    theirs = aggregate_arrayrecords(replies, "num-examples")
    ours = FedAvg(aggregation={"average": "cohort", "weighting": "examples"})
    context = RoundContext(0, 1, 8, N_ITEMS)
    state = ours.init(PARAMS, context)
    _, params = ours.apply(state, PARAMS, {0: ours.reduce(batch)}, context)
    for name, value in params.items():
        expected = theirs[name].numpy()
        np.testing.assert_allclose(value, expected, rtol=2e-7, atol=2e-7, err_msg=name)


@settings(max_examples=20, deadline=None)
@given(batch=batches())
def test_what_is_counted_is_counted(batch: UpdateBatch) -> None:
    aggregate = reduce_sums(batch, Summing("examples"))
    rows = touched(batch)
    assert aggregate.clients == len(batch.client_ids)
    assert aggregate.weight == int(batch.weight.sum()) << 32
    assert aggregate.ids["item"].tolist() == np.flatnonzero(rows.any(0)).tolist()
    row_weight = np.rint(batch.weight @ rows)[rows.any(0)].astype(np.int64)
    assert (aggregate.row_weight["item"] >> 32).tolist() == row_weight.tolist()
    assert metric_sums([aggregate])["loss"] == pytest.approx(batch.metrics["loss"].sum(), abs=1e-5)


def test_nobody_touched_anything() -> None:
    nothing = RowBlock(np.zeros(3, np.int64), np.zeros(0, np.int64), np.zeros((0, 2), np.float32))
    batch = UpdateBatch(1, np.arange(2), np.ones(2), {"item": nothing}, {})
    averages: tuple[Average, ...] = ("per_row", "cohort", "sum")
    for average in averages:
        mean = mean_update(
            {"item": PARAMS["item"]}, reduce_sums(batch, Summing("uniform")), average
        )
        assert not mean["item"].any()


def test_an_update_that_is_not_finite_is_an_error() -> None:
    block = RowBlock(np.array([0, 1]), np.array([2]), np.array([[np.nan, 0.0]]))
    batch = UpdateBatch(1, np.arange(1), np.ones(1), {"item": block}, {})
    with pytest.raises(NumericError, match="'item' is not finite"):
        reduce_sums(batch, Summing("uniform"))
    with pytest.raises(NumericError, match="'item' is not finite"):
        keep_each(batch)


def test_too_many_examples_for_fixed_point_are_an_error() -> None:
    block = RowBlock(np.array([0, 1, 2]), np.array([2, 3]), np.zeros((2, 2), np.float32))
    weight = np.array([2.0**29, 2.0**29])
    batch = UpdateBatch(1, np.arange(2), weight, {"item": block}, {})
    aggregate = reduce_sums(batch, Summing("examples"))
    assert aggregate.weight == 2**30 << 32
    with pytest.raises(NumericError, match="'weight'"):
        merge(aggregate, aggregate)
