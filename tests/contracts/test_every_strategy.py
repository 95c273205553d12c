"""What every strategy of the table must keep."""

import re
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.returned import checked_apply, checked_broadcast, checked_init
from fedrec.errors import ProtocolError
from fedrec.flower.records import Trained, decode, encode, encode_params
from fedrec.plugins import name_of, table
from fedrec.ragged import offsets_of
from fedrec.runs.result import of_group
from fedrec.testing.trial import as_bytes
from fedrec.training.clients import train_clients
from fedrec.training.optimizers import Optimizers
from fedrec.training.task import ClientTask
from fedrec.types import Aggregate, FloatArray, IntArray, Params, RowBlock, UpdateBatch
from strategies import STRATEGIES, Strategy
from tests.contracts.every_option import EARLY, strategies_of
from tests.contracts.own_models import BiasedMF
from tests.planted import initial_state, method_of, rates, shard_of

N, D, CLIENTS = 7, 3, 8
PARAMS: dict[str, FloatArray] = {
    "item": np.linspace(-1, 1, N * D).reshape(N, D).astype(np.float32),
    "bias": np.linspace(0, 1, N).astype(np.float32),
    "head": np.ones((2, D), np.float32),
    "constant": np.array(0.5, np.float32),
}
every_strategy = pytest.mark.parametrize("name", sorted(STRATEGIES))
averaging = pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"fedadam"}))


def batch_of(strategy: Strategy, rows: list[list[int]], seed: int, equal: bool = False) -> Any:
    """Clients that touch these rows; equal clients have one change of a row.

    What the strategy's client half uploads beside a parameter is there too.
    """
    rng = np.random.default_rng(seed)
    n, half = len(rows), strategy.client_rule
    ids = np.array([item for row in rows for item in row], np.int64)
    offsets = offsets_of(np.array([len(row) for row in rows], np.int64))

    def values(name: str, take: IntArray | None) -> FloatArray:
        whole = rng.standard_normal(PARAMS[name].shape).astype(np.float32)
        one = whole[take] if take is not None else np.stack([whole] * n)
        return one if equal else rng.standard_normal(one.shape).astype(np.float32)

    tables, dense = {}, {}
    for kind in ("", *(f"/{up}" for up in half.up)):
        for name in ("item", "bias"):
            tables[name + kind] = RowBlock(offsets, ids, values(name, ids))
        for name in ("head", "constant"):
            dense[name + kind] = values(name, None)
    weight = np.ones(n) if equal else rng.integers(1, 9, n).astype(float)
    metrics = {"loss": rng.random(n), "examples": weight}
    steps = torch.tensor(np.ones(n) if equal else rng.integers(1, 5, n)).double()
    extras = {name: value.numpy() for name, value in half.extras(steps, Optimizers()).items()}
    everybody = np.arange(n, dtype=np.int64)
    return UpdateBatch(1, everybody, weight, tables, dense, metrics, extras)


def take(batch: UpdateBatch, clients: IntArray) -> UpdateBatch:
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
        extras={name: value[clients] for name, value in batch.extras.items()},
    )


@st.composite
def played(draw: st.DrawFn, name: str, least: int = 1) -> tuple[Strategy, UpdateBatch]:
    """A strategy and the updates of a few clients."""
    strategy = draw(strategies_of(name))
    row = st.sets(st.integers(0, N - 1)).map(sorted)
    rows = draw(st.lists(row, min_size=least, max_size=6))
    return strategy, batch_of(strategy, rows, draw(st.integers(0, 999)))


def two_rounds(strategy: Strategy, nodes: list[UpdateBatch]) -> tuple[Any, Params]:
    """As the server does it: each node answers once for each group of its clients."""
    params: Params = PARAMS
    state = strategy.init(params, CLIENTS)
    for _ in range(2):
        aggregates: dict[int, Aggregate] = {}
        for batch in nodes:
            group = strategy.groups(state, batch.client_ids)
            for number in np.unique(group).tolist():
                aggregate = strategy.reduce(take(batch, np.flatnonzero(group == number)))
                others = aggregates.get(number)
                aggregates[number] = (
                    aggregate if others is None else strategy.merge(others, aggregate)
                )
        state, params = strategy.apply_groups(state, params, aggregates)
    return state, params


def test_the_table_is_what_config_finds() -> None:
    assert table("strategies") == STRATEGIES
    for name, strategy in STRATEGIES.items():
        assert name_of("strategies", strategy()) == name


# What comes out --------------------------------------------------------------------------------


@every_strategy
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_what_is_published_ranks_as_what_is_sent(name: str, data: st.DataObject) -> None:
    """The parameters of a client's group are found again in the model that a run leaves behind."""
    strategy, batch = data.draw(played(name))
    state, params = two_rounds(strategy, [batch])
    model = strategy.published(state, params, CLIENTS)
    for group in np.unique(strategy.groups(state, np.arange(CLIENTS, dtype=np.int64))).tolist():
        sent = strategy.broadcast(state, params, group)
        published = of_group(model, group)
        assert as_bytes(published) == as_bytes({n: sent[n] for n in PARAMS})


@every_strategy
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_the_state_is_arrays_and_values_that_a_checkpoint_keeps(
    name: str, data: st.DataObject
) -> None:
    strategy, batch = data.draw(played(name))
    checked_init(strategy, PARAMS, CLIENTS)
    state, params = two_rounds(strategy, [batch])
    group = int(strategy.groups(state, np.zeros(1, np.int64))[0])
    aggregates = {group: strategy.reduce(batch)}
    state, params = checked_apply(strategy, state, params, aggregates, 3)
    checked_broadcast(strategy, state, params, group)


@averaging
@settings(max_examples=10, deadline=None)
@given(data=st.data(), count=st.integers(1, 6), seed=st.integers(0, 99))
def test_equal_updates_give_that_update(
    name: str, data: st.DataObject, count: int, seed: int
) -> None:
    strategy = data.draw(strategies_of(name, means=True))
    row = [0, 2, 5]
    batch = batch_of(strategy, [row] * count, seed, equal=True)
    _, params = strategy.apply(strategy.init(PARAMS, CLIENTS), PARAMS, strategy.reduce(batch))
    for key in ("item", "bias"):
        expected = PARAMS[key].astype(np.float64)
        expected[row] += batch.tables[key].values[:3]
        np.testing.assert_allclose(params[key], expected, rtol=1e-6, atol=1e-6)
    for key in ("head", "constant"):
        np.testing.assert_allclose(params[key], PARAMS[key] + batch.dense[key][0], atol=1e-6)


@every_strategy
@settings(max_examples=10, deadline=None)
@given(data=st.data(), count=st.integers(1, 6), seed=st.integers(0, 99))
def test_equal_clients_are_one_client(
    name: str, data: st.DataObject, count: int, seed: int
) -> None:
    """Where a mean is taken, a crowd of equal clients does what one of them does."""
    strategy = data.draw(strategies_of(name, means=True))
    row = [0, 2, 5]
    many, single = (
        strategy.apply(strategy.init(PARAMS, CLIENTS), PARAMS, strategy.reduce(batch))[1]
        for batch in (batch_of(strategy, [row] * n, seed, equal=True) for n in (count, 1))
    )
    for key in PARAMS:
        np.testing.assert_allclose(many[key], single[key], rtol=1e-6, atol=1e-6)


@every_strategy
def test_no_change_is_no_change(name: str) -> None:
    strategy = STRATEGIES[name].model_validate(EARLY.get(name, {}))
    still = batch_of(strategy, [[0, 1]], 0)
    zero = replace(
        still,
        tables={n: replace(b, values=np.zeros_like(b.values)) for n, b in still.tables.items()},
        dense={n: np.zeros_like(v) for n, v in still.dense.items()},
    )
    _, params = two_rounds(strategy, [zero])
    assert as_bytes(params) == as_bytes(PARAMS)


# On the wire -----------------------------------------------------------------------------------

SHARD = shard_of(9, [[0, 1, 4], [2, 3], [5], [1, 7], []], [2, 1, 1, 1])


def trained(name: str) -> tuple[Strategy, ClientTask, Aggregate]:
    """What a node makes of a round of real training, with dense and local parameters."""
    strategy = STRATEGIES[name]()
    fields = {"local_epochs": 2, "batch_size": 2, "optimizers": rates(0.1)}
    task = method_of(fields, model=BiasedMF(), client_rule=strategy.client_rule)
    params, local = initial_state(task, SHARD)
    sent = strategy.broadcast(strategy.init(params, 4), params, 0)
    update, _ = train_clients(task, SHARD, sent, local, round=1)
    return strategy, task, strategy.reduce(update)


def through_the_wire(content: Any) -> Any:
    raw = recorddict_to_proto(content).SerializeToString()
    return recorddict_from_proto(RecordDictProto.FromString(raw))


@every_strategy
def test_the_wire_keeps_every_bit(name: str) -> None:
    strategy, task, aggregate = trained(name)
    assert (aggregate.each is not None) == (strategy.needs == "each")
    content = encode(Trained(aggregate, (), 3, 17, 0.25), task.travels())
    decoded = decode(through_the_wire(content), Trained)
    assert (decoded.group, decoded.seconds, decoded.failures) == (3, 0.25, ())
    assert as_bytes(decoded.aggregate) == as_bytes(aggregate)
    params = task.initial_globals(SHARD.n_items)
    states = [strategy.init(params, SHARD.n_clients) for _ in range(2)]
    assert decoded.aggregate is not None
    one, other = (
        strategy.apply(state, params, p)
        for state, p in zip(states, (aggregate, decoded.aggregate), strict=True)
    )
    assert as_bytes(one) == as_bytes(other)


@every_strategy
@pytest.mark.parametrize("kind", ["rows", "dense"])
def test_a_local_name_cannot_be_sent(name: str, kind: Literal["rows", "dense"]) -> None:
    _, task, aggregate = trained(name)
    allowed = set(task.travels())
    secret = set(task.stored_specs()) - allowed
    assert {"user", "client_bias", "user/first"} <= secret
    content = encode(Trained(aggregate), allowed)
    parts = {
        part
        for record in content.array_records.values()
        for key in record
        for part in (*str(key).split(":"), str(key).rpartition("/")[0])
    }
    parts |= set(re.findall('"([^"]*)"', str(content.config_records["rest"]["json"])))
    assert parts & allowed
    assert not parts & secret
    params = task.initial_globals(SHARD.n_items)
    with pytest.raises(ProtocolError, match="'user' may not leave its client"):
        encode_params({**params, "user": params["item"]}, allowed)
    with pytest.raises(ProtocolError, match="'user' may not leave its client"):
        encode(Trained(smuggled(aggregate, kind)), allowed)


def smuggled(aggregate: Aggregate, kind: Literal["rows", "dense"]) -> Aggregate:
    """The partial with one more parameter, which is local."""
    if aggregate.each is None:
        like = "item" if kind == "rows" else "constant"
        sums = {**aggregate.sums, "user": aggregate.sums[like]}
        if kind == "dense":
            return replace(aggregate, sums=sums)
        ids = {**aggregate.ids, "user": aggregate.ids[like]}
        return replace(aggregate, ids=ids, sums=sums)
    each = aggregate.each
    if kind == "rows":
        more = replace(each, tables={**each.tables, "user": each.tables["item"]})
    else:
        more = replace(each, dense={**each.dense, "user": each.dense["constant"]})
    return replace(aggregate, each=more)
