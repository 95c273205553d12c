"""What every strategy must keep: those of the table, and any parts with any others."""

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

from fedrec.aggregation.mix import values_of
from fedrec.aggregation.returned import (
    checked_apply,
    checked_broadcast,
    checked_groups,
    checked_init,
    merged,
)
from fedrec.aggregation.update import Aggregate, Down, RowBlock, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.errors import ProtocolError
from fedrec.flower.records import Trained, decode, encode, encode_params
from fedrec.plugins import name_of, table
from fedrec.ragged import offsets_of
from fedrec.testing.trial import as_bytes
from fedrec.training.client_rule import client_rule_of
from fedrec.training.clients import train_clients
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, IntArray, Params, State
from strategies import STRATEGIES, Composed, Strategy
from strategies.aggregations import AGGREGATIONS
from strategies.aggregations.q_fair import QFair
from strategies.client_rules import CLIENT_RULES
from strategies.server_optimizers import SERVER_OPTIMIZERS
from strategies.server_optimizers.sgd import SGD
from tests.contracts.every_option import NAMES, strategies_of
from tests.contracts.own_models import BiasedMF
from tests.planted import initial_state, method_of, rates, shard_of

N, D, CLIENTS = 7, 3, 8
PARAMS: dict[str, FloatArray] = {
    "item": np.linspace(-1, 1, N * D).reshape(N, D).astype(np.float32),
    "bias": np.linspace(0, 1, N).astype(np.float32),
    "head": np.ones((2, D), np.float32),
    "constant": np.array(0.5, np.float32),
}
every_strategy = pytest.mark.parametrize("name", NAMES)
TABLES = {
    "strategies": STRATEGIES,
    "client_rules": CLIENT_RULES,
    "aggregations": AGGREGATIONS,
    "server_optimizers": SERVER_OPTIMIZERS,
}


def in_round(number: int) -> RoundContext:
    return RoundContext(0, number, CLIENTS, N)


def batch_of(strategy: Strategy, rows: list[list[int]], seed: int, equal: bool = False) -> Any:
    """Clients that touch these rows; equal clients have one change of a row.

    What the client rule uploads beside a parameter is there too; 0 of equal clients.
    """
    rng = np.random.default_rng(seed)
    n, rule = len(rows), client_rule_of(strategy)
    ids = np.array([item for row in rows for item in row], np.int64)
    offsets = offsets_of(np.array([len(row) for row in rows], np.int64))

    def values(name: str, take: IntArray | None) -> FloatArray:
        whole = rng.standard_normal(PARAMS[name].shape).astype(np.float32)
        one = whole[take] if take is not None else np.stack([whole] * n)
        return one if equal else rng.standard_normal(one.shape).astype(np.float32)

    tables, dense = {}, {}
    for kind in ("", *(f"/{up}" for up in rule.up)):
        factor = np.float32(0 if equal and kind else 1)
        for name in ("item", "bias"):
            tables[name + kind] = RowBlock(offsets, ids, values(name, ids) * factor)
        for name in ("head", "constant"):
            dense[name + kind] = values(name, None) * factor
    weight = np.ones(n) if equal else rng.integers(1, 9, n).astype(float)
    before = np.ones(n) if equal else rng.random(n)
    metrics = {"loss": rng.random(n), "examples": weight, "loss_before": before}
    steps = torch.tensor(np.ones(n) if equal else rng.integers(1, 5, n)).double()
    of_rule = rule.extras(dict.fromkeys(PARAMS, steps), dict.fromkeys(PARAMS, 0.5))
    extras = {name: value.numpy() for name, value in of_rule.items()}
    everybody = np.arange(n, dtype=np.int64)
    return UpdateBatch(1, everybody, weight, tables, dense, metrics, extras)


@st.composite
def played(draw: st.DrawFn, name: str, least: int = 1) -> tuple[Strategy, UpdateBatch]:
    """A strategy and the updates of a few clients."""
    strategy = draw(strategies_of(name))
    row = st.sets(st.integers(0, N - 1)).map(sorted)
    rows = draw(st.lists(row, min_size=least, max_size=6))
    return strategy, batch_of(strategy, rows, draw(st.integers(0, 999)))


def two_rounds(strategy: Strategy, nodes: list[UpdateBatch]) -> tuple[State, Params]:
    """As the server does it: each node answers once, with a sum for each group of its clients."""
    params: Params = PARAMS
    state = strategy.init(params, in_round(0))
    for number in (1, 2):
        aggregates: dict[int, Aggregate] = {}
        for batch in nodes:
            groups = strategy.groups(state, batch.client_ids)
            for group in np.unique(groups).tolist():
                aggregate = strategy.reduce(batch.take(np.flatnonzero(groups == group)))
                aggregates[group] = merged(strategy, aggregates.get(group), aggregate)
        state, params = strategy.apply(state, params, aggregates, in_round(number))
    return state, params


def one_round(strategy: Strategy, batch: UpdateBatch) -> Params:
    state = strategy.init(PARAMS, in_round(0))
    return strategy.apply(state, PARAMS, {0: strategy.reduce(batch)}, in_round(1))[1]


@pytest.mark.parametrize("kind", TABLES)
def test_the_table_is_what_config_finds(kind: str) -> None:
    assert table(kind) == TABLES[kind]
    for name, plugin in TABLES[kind].items():
        assert name_of(kind, plugin()) == name


# What comes out --------------------------------------------------------------------------------


@every_strategy
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_what_is_published_ranks_as_what_is_sent(name: str, data: st.DataObject) -> None:
    """What a client receives alone is found again in the model that a run leaves behind."""
    strategy, batch = data.draw(played(name))
    state, params = two_rounds(strategy, [batch])
    model = strategy.published(state, params, in_round(2))
    for client in range(CLIENTS):
        down = strategy.broadcast(state, params, np.array([client]), in_round(2))
        sent, ranked = (values_in(each) for each in (down, model.take(np.array([client]))))
        assert as_bytes(ranked) == as_bytes({n: sent[n] for n in ranked})
        assert set(ranked) == set(PARAMS)


def values_in(down: Down) -> dict[str, FloatArray]:
    """All that one client receives."""
    own = {name: values_of(mix, np.zeros(1, np.int64))[0] for name, mix in down.own.items()}
    return {**down.shared, **own}


@every_strategy
@settings(max_examples=10, deadline=None)
@given(data=st.data(), cuts=st.sets(st.integers(1, 5)), seed=st.integers(0, 99))
def test_which_node_hosts_whom_changes_no_bit(
    name: str, data: st.DataObject, cuts: set[int], seed: int
) -> None:
    strategy, batch = data.draw(played(name, least=2))
    n = len(batch.client_ids)
    order = np.random.default_rng(seed).permutation(n)
    nodes = np.split(order, sorted(cut for cut in cuts if cut < n))
    dealt = two_rounds(strategy, [batch.take(clients) for clients in nodes])
    assert as_bytes(dealt) == as_bytes(two_rounds(strategy, [batch]))


@every_strategy
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_the_state_is_arrays_and_values_that_a_checkpoint_keeps(
    name: str, data: st.DataObject
) -> None:
    strategy, batch = data.draw(played(name))
    checked_init(strategy, PARAMS, in_round(0))
    state, params = two_rounds(strategy, [batch])
    everybody = np.arange(CLIENTS)
    groups = checked_groups(strategy, state, everybody)
    aggregates = {int(groups[0]): strategy.reduce(batch)}
    state, params = checked_apply(strategy, state, params, aggregates, in_round(3))
    rule = client_rule_of(strategy)
    checked_broadcast(strategy, rule, state, params, everybody, in_round(4))


@pytest.mark.parametrize("name", sorted({*NAMES} - {"fedadam"}))
@settings(max_examples=10, deadline=None)
@given(data=st.data(), count=st.integers(1, 6), seed=st.integers(0, 99))
def test_equal_updates_give_that_update(
    name: str, data: st.DataObject, count: int, seed: int
) -> None:
    """Where the server takes the mean change as a step."""
    strategy = data.draw(strategies_of(name, means=True))
    if isinstance(strategy, Composed):
        fair = isinstance(strategy.aggregation, QFair)
        parts = {"server_optimizer": SGD(), **({"aggregation": QFair(q=0)} if fair else {})}
        strategy = strategy.model_copy(update=parts)
    row = [0, 2, 5]
    batch = batch_of(strategy, [row] * count, seed, equal=True)
    params = one_round(strategy, batch)
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
        one_round(strategy, batch_of(strategy, [row] * n, seed, equal=True)) for n in (count, 1)
    )
    for key in PARAMS:
        np.testing.assert_allclose(many[key], single[key], rtol=1e-6, atol=1e-6)


@every_strategy
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_no_change_is_no_change(name: str, data: st.DataObject) -> None:
    strategy = data.draw(strategies_of(name))
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


def trained(strategy: Strategy) -> tuple[ClientTask, Aggregate]:
    """What a node makes of a round of real training, with dense and local parameters."""
    fields = {"local_epochs": 2, "batch_size": 2, "optimizers": rates(0.1)}
    task = method_of(fields, model=BiasedMF(), client_rule=client_rule_of(strategy))
    task = replace(task, measures=strategy.measures)
    task = replace(task, measures=strategy.measures)
    params, local = initial_state(task, SHARD)
    state = strategy.init(params, in_round(0))
    sent = strategy.broadcast(state, params, SHARD.client_ids, in_round(1))
    update, _ = train_clients(task, SHARD, sent.shared, local, round=1)
    return task, strategy.reduce(update)


def through_the_wire(content: Any) -> Any:
    raw = recorddict_to_proto(content).SerializeToString()
    return recorddict_from_proto(RecordDictProto.FromString(raw))


@every_strategy
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_the_wire_keeps_every_bit(name: str, data: st.DataObject) -> None:
    strategy = data.draw(strategies_of(name))
    task, aggregate = trained(strategy)
    assert (aggregate.each is not None) == strategy.sees_each
    content = encode(Trained({3: aggregate}, (), 17, 0.25), task.travels())
    decoded = decode(through_the_wire(content), Trained)
    assert (decoded.uploaded, decoded.seconds, decoded.failures) == (17, 0.25, ())
    assert as_bytes(decoded.aggregates) == as_bytes({3: aggregate})
    params = task.initial_globals(SHARD.n_items)
    states = [strategy.init(params, in_round(0)) for _ in range(2)]
    one, other = (
        strategy.apply(state, params, {0: p}, in_round(1))
        for state, p in zip(states, (aggregate, decoded.aggregates[3]), strict=True)
    )
    assert as_bytes(one) == as_bytes(other)


@every_strategy
@pytest.mark.parametrize("kind", ["rows", "dense"])
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_a_local_name_cannot_be_sent(
    name: str, kind: Literal["rows", "dense"], data: st.DataObject
) -> None:
    task, aggregate = trained(data.draw(strategies_of(name)))
    allowed = set(task.travels())
    secret = set(task.stored_specs()) - allowed
    assert {"user", "client_bias", "user/first"} <= secret
    content = encode(Trained({0: aggregate}), allowed)
    keys = [str(key) for record in content.array_records.values() for key in record]
    names = re.findall(r"[\w./]+", " ".join([*keys, str(content["rest"]["json"])]))
    names += [name.rpartition("/")[0] for name in names]
    assert allowed & {*names}
    assert not secret & {*names}
    params = task.initial_globals(SHARD.n_items)
    with pytest.raises(ProtocolError, match="'user' may not leave its client"):
        encode_params({**params, "user": params["item"]}, allowed)
    with pytest.raises(ProtocolError, match="'user' may not leave its client"):
        encode(Trained({0: smuggled(aggregate, kind)}), allowed)


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
