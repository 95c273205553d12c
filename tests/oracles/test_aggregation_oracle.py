"""Aggregations against their definitions, written as loops over items, clients and coordinates."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.update import UpdateBatch
from fedrec.testing.strategies import N_ITEMS, PARAMS, joint_change, updates
from fedrec.types import FloatArray
from strategies.aggregations import AGGREGATIONS

ROWS = st.lists(st.sets(st.integers(0, N_ITEMS - 1)).map(sorted), min_size=1, max_size=14)
SEEDS = st.integers(0, 999)
oracle = settings(max_examples=12, deadline=None)
Rows = Mapping[int, FloatArray]


def change_of(name: str, batch: UpdateBatch, **options: Any) -> Mapping[str, FloatArray]:
    return joint_change(AGGREGATIONS[name].model_validate(options), [[batch]])[1][0]


def items_of(batch: UpdateBatch, table: str) -> dict[int, dict[int, FloatArray]]:
    """Per item, the change of each client that touched it, float64 [n]."""
    block, touched = batch.tables[table], dict[int, dict[int, FloatArray]]()
    for client in range(len(batch.client_ids)):
        for at in range(block.offsets[client], block.offsets[client + 1]):
            row = np.atleast_1d(block.values[at]).astype(np.float64)
            touched.setdefault(int(block.ids[at]), {})[client] = row
    return touched


def dense_of(batch: UpdateBatch) -> dict[int, FloatArray]:
    """All dense parameters of each client as one vector."""
    return {
        client: np.concatenate([v[client].ravel() for v in batch.dense.values()]).astype(float)
        for client in range(len(batch.client_ids))
    }


def check_row_by_row(
    change: Mapping[str, FloatArray], batch: UpdateBatch, rule: Callable[[FloatArray], FloatArray]
) -> None:
    """Compare with a rule for the changes of an item, float64 [m, n]."""
    for table in batch.tables:
        expected = np.zeros_like(change[table])
        for item, of_clients in items_of(batch, table).items():
            joined = rule(np.stack([*of_clients.values()]))
            expected[item] = joined if expected.ndim > 1 else joined[0]
        np.testing.assert_allclose(change[table], expected, rtol=1e-9, atol=1e-12)
    joined = rule(np.stack([*dense_of(batch).values()]))
    came = np.concatenate([change[name].ravel() for name in batch.dense])
    np.testing.assert_allclose(came, joined, rtol=1e-9, atol=1e-12)


def few(rows: FloatArray, below: str) -> FloatArray:
    joined = {"median": np.median(rows, axis=0), "mean": rows.mean(0), "skip": 0 * rows[0]}
    return np.asarray(joined[below])


BELOW = st.sampled_from(["median", "mean", "skip"])


@oracle
@given(rows=ROWS, seed=SEEDS, below=BELOW, least=st.integers(1, 6))
def test_median(rows: list[list[int]], seed: int, below: str, least: int) -> None:
    batch = updates(rows, seed)
    change = change_of("median", batch, below=below, min_clients=least)

    def rule(of_item: FloatArray) -> FloatArray:
        enough = len(of_item) >= least
        return np.asarray(np.median(of_item, axis=0)) if enough else few(of_item, below)

    check_row_by_row(change, batch, rule)


@oracle
@given(rows=ROWS, seed=SEEDS, below=BELOW, trim=st.sampled_from([0.05, 0.25, 0.4]))
def test_trimmed_mean(rows: list[list[int]], seed: int, below: str, trim: float) -> None:
    batch = updates(rows, seed)

    def rule(of_item: FloatArray) -> FloatArray:
        if len(of_item) < 3:
            return few(of_item, below)
        out = max(1, int(len(of_item) * trim))
        columns = [sorted(column)[out:-out] for column in of_item.T.tolist()]
        return np.array([sum(column) / len(column) for column in columns])

    check_row_by_row(change_of("trimmed_mean", batch, below=below, trim=trim), batch, rule)


def krum_order(of_item: FloatArray, f: int, left: list[int]) -> list[int]:
    """The clients that are left, from the lowest score."""
    scores = []
    for u in left:
        squared = sorted(float(((of_item[u] - of_item[v]) ** 2).sum()) for v in left if v != u)
        scores.append(sum(squared[: max(1, len(left) - f - 2)]))
    return [left[at] for at in np.argsort(scores, kind="stable")]


@oracle
@given(
    rows=ROWS, seed=SEEDS, below=BELOW, f=st.integers(0, 3), select=st.none() | st.integers(1, 6)
)
def test_krum_and_multi_krum(
    rows: list[list[int]], seed: int, below: str, f: int, select: int | None
) -> None:
    batch = updates(rows, seed)

    def rule(of_item: FloatArray, number: int | None) -> FloatArray:
        m = len(of_item)
        if m < 2 * f + 3:
            return few(of_item, below)
        most = m - f - 2 if number is None else min(number, m - f - 2)
        return np.asarray(of_item[sorted(krum_order(of_item, f, [*range(m)])[:most])].mean(0))

    options = {"byzantine": f, "below": below}
    check_row_by_row(change_of("krum", batch, **options), batch, lambda rows: rule(rows, 1))
    change = change_of("multi_krum", batch, **options, select=select)
    check_row_by_row(change, batch, lambda rows: rule(rows, select))


@oracle
@given(rows=ROWS, seed=SEEDS, below=BELOW, f=st.integers(0, 2))
def test_bulyan(rows: list[list[int]], seed: int, below: str, f: int) -> None:
    batch = updates(rows, seed)

    def rule(of_item: FloatArray) -> FloatArray:
        if len(of_item) < 4 * f + 3:
            return few(of_item, below)
        left, chosen = [*range(len(of_item))], list[int]()
        while len(chosen) < len(of_item) - 2 * f:
            chosen.append(krum_order(of_item, f, left)[0])
            left.remove(chosen[-1])
        joined = []
        for column in of_item[chosen].T.tolist():
            median = float(np.median(column))
            nearest = sorted(column, key=lambda value: (abs(value - median), value))
            joined.append(np.mean(nearest[: len(chosen) - 2 * f]))
        return np.array(joined)

    check_row_by_row(change_of("bulyan", batch, below=below, byzantine=f), batch, rule)


@oracle
@given(rows=ROWS, seed=SEEDS)
def test_the_geometric_median_has_the_least_sum_of_distances(
    rows: list[list[int]], seed: int
) -> None:
    """No step of a length from it in any direction makes the sum smaller."""
    batch = updates(rows, seed)
    change = change_of("geometric_median", batch, iterations=3000, min_clients=1)
    directions = np.random.default_rng(seed).standard_normal((30, 3))
    for item, of_clients in items_of(batch, "item").items():
        points, centre = np.stack([*of_clients.values()]), change["item"][item]

        def total(at: FloatArray, points: FloatArray = points) -> float:
            return float(np.linalg.norm(points - at, axis=1).sum())

        for direction in directions:
            for length in (1e-3, 0.1, 1.0):
                other = centre + length * direction / np.linalg.norm(direction)
                assert total(centre) <= total(other) + 1e-5


def test_the_geometric_median_of_a_line_is_its_median() -> None:
    batch = updates([[0]] * 5, 3)
    change = change_of("geometric_median", batch, iterations=2000)
    median = np.median(batch.tables["bias"].values)
    assert change["bias"][0] == pytest.approx(median, abs=1e-4)


@oracle
@given(
    rows=ROWS,
    seed=SEEDS,
    average=st.sampled_from(["per_row", "cohort", "sum"]),
    weighting=st.sampled_from(["uniform", "examples"]),
    floor=st.integers(0, 5),
)
def test_mean(rows: list[list[int]], seed: int, average: str, weighting: str, floor: int) -> None:
    batch = updates(rows, seed)
    change = change_of("mean", batch, average=average, weighting=weighting, floor=floor)
    weight = batch.weight if weighting == "examples" else np.ones(len(rows))
    for table in batch.tables:
        expected = np.zeros_like(change[table])
        for item, of_clients in items_of(batch, table).items():
            total = sum(weight[u] * row for u, row in of_clients.items())
            divisor = max(sum(weight[u] for u in of_clients), floor * weight.mean())
            divisor = {"per_row": divisor, "cohort": weight.sum(), "sum": 1.0}[average]
            if average == "sum":
                total = sum(of_clients.values())
            expected[item] = total / divisor if expected.ndim > 1 else total[0] / divisor
        np.testing.assert_allclose(change[table], expected, rtol=1e-9, atol=1e-9)


@oracle
@given(
    rows=ROWS, seed=SEEDS, q=st.sampled_from([0.5, 1.0, 2.0]), lipschitz=st.sampled_from([0.5, 2])
)
def test_q_fair(rows: list[list[int]], seed: int, q: float, lipschitz: float) -> None:
    batch = updates(rows, seed)
    loss = np.where(np.arange(len(rows)) % 3 == 1, 0.0, batch.metrics["loss_before"])
    batch = replace(batch, metrics={**batch.metrics, "loss_before": loss})
    change = change_of("q_fair", batch, q=q, lipschitz=lipschitz)
    items, loss = items_of(batch, "item"), np.maximum(loss, 1e-3)
    h = []
    for u, dense in dense_of(batch).items():
        parts = [of[u] for t in batch.tables for of in items_of(batch, t).values() if u in of]
        gradient = lipschitz * np.concatenate([dense, *parts])
        h.append(q * loss[u] ** (q - 1) * (gradient @ gradient) + lipschitz * loss[u] ** q)
    for item, of_clients in items.items():
        total = sum(loss[u] ** q * lipschitz * row for u, row in of_clients.items())
        expected = total / sum(h[u] for u in of_clients)
        np.testing.assert_allclose(change["item"][item], expected, rtol=1e-4, atol=1e-8)
    total = sum(loss[u] ** q * lipschitz * row for u, row in dense_of(batch).items())
    came = np.concatenate([change[name].ravel() for name in batch.dense])
    np.testing.assert_allclose(came, total / sum(h), rtol=1e-4, atol=1e-8)


@oracle
@given(
    rows=ROWS, seed=SEEDS, bound=st.sampled_from([0.5, 2.0]), per=st.sampled_from(["update", "row"])
)
def test_norm_bounded_and_centred_clipping(
    rows: list[list[int]], seed: int, bound: float, per: str
) -> None:
    """Two rounds; the first of centred clipping is that of the bounded mean."""
    rounds = [updates(rows, seed), updates(rows, seed + 1)]
    options = {"bound": bound, "per": per}
    for name in ("norm_bounded", "centred_clipping"):
        aggregation = AGGREGATIONS[name].model_validate(options)
        _, changes = joint_change(aggregation, [[batch] for batch in rounds])
        centre = {n: np.zeros(value.shape) for n, value in PARAMS.items()}
        for batch, change in zip(rounds, changes, strict=True):
            after = {n: value.copy() for n, value in centre.items()}
            moved = shortened(batch, centre, bound, per)
            for parameter, at in {key for each in moved for key in each}:
                here = [each[parameter, at] for each in moved if (parameter, at) in each]
                after[parameter][at] += sum(here) / len(here)
                np.testing.assert_allclose(
                    change[parameter][at], after[parameter][at], rtol=1e-6, atol=1e-8
                )
            centre = after if name == "centred_clipping" else centre


def shortened(
    batch: UpdateBatch, centre: Mapping[str, FloatArray], bound: float, per: str
) -> list[dict[tuple[str, Any], FloatArray]]:
    """Of each client, what it sent of each row and dense parameter, less the centre, shortened."""
    clients = []
    for u in range(len(batch.client_ids)):
        parts: dict[tuple[str, Any], FloatArray] = {
            (name, ()): values[u] - centre[name] for name, values in batch.dense.items()
        }
        for name, block in batch.tables.items():
            for at in range(block.offsets[u], block.offsets[u + 1]):
                item = int(block.ids[at])
                parts[name, item] = block.values[at].astype(float) - centre[name][item]
        whole = np.sqrt(sum(float((part**2).sum()) for part in parts.values()))
        lengths = {k: whole if per == "update" else np.sqrt((p**2).sum()) for k, p in parts.items()}
        clients.append({k: p * min(1.0, bound / max(lengths[k], 1e-9)) for k, p in parts.items()})
    return clients


def test_the_running_median_of_the_norms() -> None:
    """3, 4, 5: the bound is 4; then 30, 40, 50: 0.9 of 4 and 0.1 of 40."""
    aggregation = AGGREGATIONS["norm_bounded"].model_validate({})
    params = {"head": np.zeros(1, np.float32)}

    def batch(lengths: list[float]) -> UpdateBatch:
        values = np.array(lengths, np.float32)[:, None]
        return replace(updates([[]] * 3, 0), tables={}, dense={"head": values})

    rounds = [[batch([3, 4, 5])], [batch([30, 40, 50])]]
    state, (first, second) = joint_change(aggregation, rounds, params)
    assert first["head"][0] == pytest.approx((3 + 4 + 4) / 3)
    assert second["head"][0] == pytest.approx(0.9 * 4 + 0.1 * 40)
    assert state.values == pytest.approx({"head": 7.6})


def test_distances_of_near_clients_far_from_zero() -> None:
    """The sum of squares less the product is 0 in float32 for all of them."""
    near = np.array([[0.0], [1.0], [2.0], [6.0], [9.0]]) * 2.0**-10 + 1000.0
    params = {"head": np.zeros(1, np.float32)}
    batch = replace(updates([[]] * 5, 0), tables={}, dense={"head": near.astype(np.float32)})
    krum = AGGREGATIONS["krum"].model_validate({"byzantine": 1})
    assert joint_change(krum, [[batch]], params)[1][0]["head"] == near[1]


@oracle
@given(seed=SEEDS, f=st.integers(1, 2), scale=st.sampled_from([1e2, 1e6]))
def test_garbage_of_a_few_stays_without_effect(seed: int, f: int, scale: float) -> None:
    """f clients of 4 f + 3 send anything: each coordinate stays among those of the honest."""
    m, rng = 4 * f + 3, np.random.default_rng(seed)
    batch, liars = updates([[0, 1]] * m, seed), rng.choice(m, f, replace=False)
    block = batch.tables["item"]
    values = block.values.reshape(m, 2, 3).copy()
    values[liars] = scale * (1 + rng.random((f, 2, 3)))
    honest = np.delete(values, liars, axis=0)
    tables = {**batch.tables, "item": replace(block, values=values.reshape(2 * m, 3))}
    attacked = replace(batch, tables=tables)
    low, high = honest.min(0), honest.max(0)
    krum: dict[str, Any] = {"byzantine": f}
    robust: dict[str, dict[str, Any]] = {"median": {}, "trimmed_mean": {"trim": 0.3}}
    robust |= {"krum": krum, "multi_krum": krum, "bulyan": krum}
    for name, options in robust.items():
        rows = change_of(name, attacked, **options)["item"][:2]
        assert ((low <= rows) & (rows <= high)).all(), name
    centre = change_of("geometric_median", attacked, iterations=100)["item"][:2]
    assert np.linalg.norm(centre, axis=1).max() < 20
    bounded = change_of("norm_bounded", attacked, bound=1.0)["item"][:2]
    assert np.linalg.norm(bounded, axis=1).max() <= 1
    assert (change_of("mean", attacked)["item"][:2] > high).all()
