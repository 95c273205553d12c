"""What every strategy of the table must keep."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.plugins import name_of, table
from fedrec.types import FloatArray, Params, Partial, RowBlock, UpdateBatch, offsets_of
from strategies import STRATEGIES, Strategy

N, D = 7, 3
PARAMS: dict[str, FloatArray] = {
    "item": np.linspace(-1, 1, N * D).reshape(N, D).astype(np.float32),
    "bias": np.linspace(0, 1, N).astype(np.float32),
    "head": np.ones((2, D), np.float32),
    "constant": np.array(0.5, np.float32),
}
OPTIONS = st.fixed_dictionaries(
    {
        "denominator": st.sampled_from(["rows", "cohort", "sum"]),
        "weighting": st.sampled_from(["uniform", "examples"]),
    }
)
every_strategy = pytest.mark.parametrize("name", sorted(STRATEGIES))


def batch_of(rows: list[list[int]], seed: int, equal: bool = False) -> UpdateBatch:
    """Clients that touch these rows; equal clients have one change of a row."""
    rng = np.random.default_rng(seed)
    n = len(rows)
    ids = np.array([item for row in rows for item in row], np.int64)
    offsets = offsets_of(np.array([len(row) for row in rows], np.int64))
    shared = {name: rng.standard_normal(v.shape).astype(np.float32) for name, v in PARAMS.items()}
    tables = {}
    for name in ("item", "bias"):
        values = shared[name][ids]
        if not equal:
            values = rng.standard_normal(values.shape).astype(np.float32)
        tables[name] = RowBlock(offsets, ids, values)
    dense = {
        name: np.stack([shared[name] if equal else rng.standard_normal(PARAMS[name].shape)] * n)
        for name in ("head", "constant")
    }
    weight = np.ones(n) if equal else rng.integers(1, 9, n).astype(float)
    metrics = {"loss": rng.random(n), "examples": weight}
    return UpdateBatch(1, np.arange(n, dtype=np.int64), weight, tables, dense, metrics)


def take(batch: UpdateBatch, clients: np.ndarray) -> UpdateBatch:
    """Some of the clients, in another order."""
    tables = {}
    for name, block in batch.tables.items():
        parts = [np.arange(block.offsets[c], block.offsets[c + 1]) for c in clients]
        at = np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)
        offsets = offsets_of(np.diff(block.offsets)[clients])
        tables[name] = RowBlock(offsets, block.ids[at], block.values[at])
    return replace(
        batch,
        client_ids=batch.client_ids[clients],
        weight=batch.weight[clients],
        tables=tables,
        dense={name: value[clients] for name, value in batch.dense.items()},
        metrics={name: value[clients] for name, value in batch.metrics.items()},
    )


@st.composite
def clients(draw: st.DrawFn) -> UpdateBatch:
    row = st.sets(st.integers(0, N - 1)).map(sorted)
    return batch_of(draw(st.lists(row, min_size=1, max_size=6)), draw(st.integers(0, 999)))


def bits(params: Params) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in params.items()}


def two_rounds(strategy: Strategy, partial: Partial) -> tuple[Any, Params]:
    state, params = strategy.apply(strategy.init(PARAMS), PARAMS, partial)
    return strategy.apply(state, params, partial)


def as_bytes(value: Any) -> Any:
    """A state or a partial, with its arrays as bytes, to compare."""
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if hasattr(value, "__dataclass_fields__"):
        return {name: as_bytes(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {name: as_bytes(item) for name, item in value.items()}
    return value


def test_the_table_is_what_config_finds() -> None:
    assert table("strategies") == STRATEGIES
    for name, strategy in STRATEGIES.items():
        assert name_of("strategies", strategy()) == name


@every_strategy
@settings(max_examples=15, deadline=None)
@given(batch=clients(), fields=OPTIONS, data=st.data())
def test_order_and_grouping_change_no_bit(
    name: str, batch: UpdateBatch, fields: dict[str, str], data: st.DataObject
) -> None:
    strategy = STRATEGIES[name].model_validate(fields)
    n = len(batch.client_ids)
    order = np.array(data.draw(st.permutations(range(n))), np.int64)
    cut = data.draw(st.integers(1, n))
    parts = [take(batch, part) for part in np.split(order, [cut]) if len(part)]
    merged = reduce(strategy.merge, [strategy.reduce(part) for part in parts])
    whole = strategy.reduce(batch)
    assert as_bytes(merged) == as_bytes(whole)
    assert bits(two_rounds(strategy, merged)[1]) == bits(two_rounds(strategy, whole)[1])


@every_strategy
@settings(max_examples=15, deadline=None)
@given(batch=clients(), fields=OPTIONS)
def test_merge_is_associative_and_commutative(
    name: str, batch: UpdateBatch, fields: dict[str, str]
) -> None:
    strategy = STRATEGIES[name].model_validate(fields)
    third = [take(batch, np.arange(len(batch.client_ids))[k::3]) for k in range(3)]
    a, b, c = (
        (strategy.reduce(part) for part in third if len(part.client_ids))
        if len(batch.client_ids) >= 3
        else (strategy.reduce(batch),) * 3
    )
    left = strategy.merge(strategy.merge(a, b), c)
    assert as_bytes(left) == as_bytes(strategy.merge(a, strategy.merge(b, c)))
    assert as_bytes(left) == as_bytes(strategy.merge(c, strategy.merge(b, a)))


@every_strategy
@settings(max_examples=15, deadline=None)
@given(batch=clients(), fields=OPTIONS)
def test_nothing_is_mutated_and_twice_is_the_same(
    name: str, batch: UpdateBatch, fields: dict[str, str]
) -> None:
    strategy = STRATEGIES[name].model_validate(fields)
    partial = strategy.reduce(batch)
    state, params = strategy.apply(strategy.init(PARAMS), PARAMS, partial)
    before = copy.deepcopy([as_bytes(v) for v in (batch, partial, state, dict(params))])
    first, second = (strategy.apply(state, params, partial) for _ in range(2))
    strategy.merge(partial, partial)
    assert [as_bytes(v) for v in (batch, partial, state, dict(params))] == before
    assert as_bytes(first[0]) == as_bytes(second[0])
    assert bits(first[1]) == bits(second[1])


@every_strategy
@settings(max_examples=15, deadline=None)
@given(batch=clients(), fields=OPTIONS)
def test_the_parameters_keep_names_shapes_and_type(
    name: str, batch: UpdateBatch, fields: dict[str, str]
) -> None:
    strategy = STRATEGIES[name].model_validate(fields)
    _, params = two_rounds(strategy, strategy.reduce(batch))
    assert {n: (v.shape, v.dtype.name) for n, v in params.items()} == {
        n: (v.shape, "float32") for n, v in PARAMS.items()
    }
    assert all(np.isfinite(value).all() for value in params.values())


@every_strategy
@pytest.mark.parametrize("denominator", ["rows", "cohort"])
@settings(max_examples=10, deadline=None)
@given(count=st.integers(1, 6), seed=st.integers(0, 99))
def test_equal_clients_are_one_client(name: str, denominator: str, count: int, seed: int) -> None:
    """Where a mean is taken, a crowd of equal clients does what one of them does."""
    strategy = STRATEGIES[name].model_validate({"denominator": denominator})
    row = [0, 2, 5]
    crowd, one = (batch_of([row] * n, seed, equal=True) for n in (count, 1))
    many, single = (
        strategy.apply(strategy.init(PARAMS), PARAMS, strategy.reduce(b))[1] for b in (crowd, one)
    )
    for key in PARAMS:
        np.testing.assert_allclose(many[key], single[key], rtol=1e-6, atol=1e-6)


@every_strategy
def test_no_change_is_no_change(name: str) -> None:
    strategy = STRATEGIES[name]()
    still = batch_of([[0, 1]], 0)
    zero = replace(
        still,
        tables={n: replace(b, values=np.zeros_like(b.values)) for n, b in still.tables.items()},
        dense={n: np.zeros_like(v) for n, v in still.dense.items()},
    )
    _, params = two_rounds(strategy, strategy.reduce(zero))
    assert bits(params) == bits(PARAMS)
