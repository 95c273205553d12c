"""Flower's strategies, unmodified: what they are given, what they keep, and what is refused."""

import json
import logging
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.returned import checked_apply, checked_init
from fedrec.aggregation.update import Aggregate, RowBlock, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError
from fedrec.ragged import offsets_of
from fedrec.testing.trial import as_bytes
from fedrec.types import FloatArray, IntArray, Params, State
from strategies import Composed, Flower
from strategies.attributes import attributes_of, state_of
from strategies.base import Strategy

N, D = 7, 3
PARAMS: Params = {
    "item": np.linspace(-1, 1, N * D).reshape(N, D).astype(np.float32),
    "bias": np.linspace(0, 1, N).astype(np.float32),
    "constant": np.array(0.5, np.float32),
}
FLOWER = "flwr.serverapp.strategy:"
HERE = f"{__name__}:"


def context(round: int) -> RoundContext:
    return RoundContext(0, round, 20, N)


def flower(name: str, unit: str = "client", **options: Any) -> Flower:
    return Flower.model_validate({"of": FLOWER + name, "options": options, "unit": unit})


def batch_of(rows: list[list[int]], seed: int, round: int = 1) -> UpdateBatch:
    """Clients that touch these rows, by random changes."""
    rng, n = np.random.default_rng(seed), len(rows)
    ids = np.array([item for row in rows for item in row], np.int64)
    offsets = offsets_of(np.array([len(row) for row in rows], np.int64))
    changes = {name: rng.standard_normal((len(ids), *PARAMS[name].shape[1:])) for name in PARAMS}
    tables = {
        name: RowBlock(offsets, ids, changes[name].astype(np.float32)) for name in ("item", "bias")
    }
    dense: dict[str, FloatArray] = {"constant": rng.standard_normal(n).astype(np.float32)}
    weight = rng.integers(1, 9, n).astype(float)
    loss = rng.random(n)
    metrics = {"loss": loss * weight, "loss_before": loss, "examples": weight}
    clients = np.arange(n, dtype=np.int64)
    return UpdateBatch(round, clients, weight, tables, dense, metrics)


batches = st.builds(
    batch_of,
    st.lists(st.sets(st.integers(0, N - 1)).map(sorted), min_size=4, max_size=8),
    st.integers(0, 999),
)


def apply(
    strategy: Strategy, nodes: list[UpdateBatch], state: State | None = None, round: int = 1
) -> tuple[State, Params]:
    """The round as the server makes it, from what each node answers."""
    state = checked_init(strategy, PARAMS, context(0)) if state is None else state
    aggregates: dict[int, Aggregate] = {}
    for number, batch in enumerate(nodes):
        key, reduced = number if strategy.by_node else 0, strategy.reduce(batch)
        aggregates[key] = strategy.merge(aggregates[key], reduced) if key in aggregates else reduced
    return checked_apply(strategy, state, PARAMS, aggregates, context(round))


def dealt(batch: UpdateBatch, owner: Iterable[int]) -> list[UpdateBatch]:
    """The clients on nodes; in each the last come first."""
    owners: IntArray = np.array(list(owner))
    return [batch.take(np.flatnonzero(owners == node)[::-1]) for node in np.unique(owners)]


# What they make of a round --------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(batch=batches, data=st.data())
def test_flowers_mean_is_the_mean_over_the_cohort_by_examples(
    batch: UpdateBatch, data: st.DataObject
) -> None:
    """Of nodes too: the weighted mean of weighted means is the weighted mean."""
    mean = {"average": "cohort", "weighting": "examples"}
    _, expected = apply(Composed.model_validate({"aggregation": mean}), [batch])
    n = len(batch.client_ids)
    nodes = dealt(batch, data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    for unit in ("client", "node"):
        _, params = apply(flower("FedAvg", unit), nodes)
        for name, value in expected.items():
            np.testing.assert_allclose(params[name], value, atol=3e-6)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FedAvg", {}),
        ("FedTrimmedAvg", {"beta": 0.3}),
        ("FedMedian", {}),
        ("FedAdam", {"eta": 0.01}),
        ("MultiKrum", {"num_malicious_nodes": 1, "num_nodes_to_select": 2}),
    ],
)
@settings(max_examples=5, deadline=None)
@given(batch=batches, data=st.data())
def test_neither_nodes_nor_the_order_of_clients_change_a_bit(
    name: str, options: dict[str, Any], batch: UpdateBatch, data: st.DataObject
) -> None:
    n = len(batch.client_ids)
    nodes = dealt(batch, data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    strategy = flower(name, **options)
    assert as_bytes(apply(strategy, nodes)) == as_bytes(apply(strategy, [batch]))


@settings(max_examples=25, deadline=None)
@given(batch=batches, beta=st.floats(0, 0.49))
def test_the_trimmed_mean_counts_untouched_rows_as_unchanged(
    batch: UpdateBatch, beta: float
) -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    _, params = apply(flower("FedTrimmedAvg", beta=beta), [batch])
    n, block = len(batch.client_ids), batch.tables["item"]
    full = np.repeat(PARAMS["item"][None], n, axis=0)
    full[np.repeat(np.arange(n), np.diff(block.offsets)), block.ids] += block.values
    np.testing.assert_allclose(params["item"], scipy_stats.trim_mean(full, beta), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(batch=batches)
def test_krum_takes_over_one_client_whole(batch: UpdateBatch) -> None:
    _, params = apply(flower("Krum", num_malicious_nodes=1), [batch])
    of_clients = []
    for row in range(len(batch.client_ids)):
        _, alone = apply(flower("FedAvg"), [batch.take(np.array([row]))])
        of_clients.append(alone)
    assert any(all(np.array_equal(params[n], one[n]) for n in PARAMS) for one in of_clients)


# What they keep -------------------------------------------------------------------------------


def through_a_file(state: State) -> State:
    return State(
        {name: value.copy() for name, value in state.arrays.items()},
        json.loads(json.dumps(state.values)),
    )


def test_momentum_lasts_from_round_to_round() -> None:
    r"""The change of FedAvgM after t equal rounds is :math:`\sum_{s \le t} (1 - m^s) / (1 - m)`."""
    strategy, momentum = flower("FedAvgM", server_momentum=0.5), 0.5
    state, moved = checked_init(strategy, PARAMS, context(0)), 0.0
    params = PARAMS
    for number in range(1, 4):
        step = replace(batch_of([[0]], 0, number), dense={"constant": np.ones(1, np.float32)})
        aggregates = {0: strategy.reduce(step)}
        state, params = checked_apply(
            strategy, through_a_file(state), params, aggregates, context(number)
        )
        moved += (1 - momentum**number) / (1 - momentum)
        assert params["constant"] == pytest.approx(0.5 + moved, rel=1e-6)


def test_flowers_adam_is_its_formula() -> None:
    eta, b1, b2, tau = 0.1, 0.8, 0.95, 1e-3
    strategy = flower("FedAdam", eta=eta, beta_1=b1, beta_2=b2, tau=tau)
    state, params = checked_init(strategy, PARAMS, context(0)), PARAMS
    x = PARAMS["item"].astype(np.float64)
    m = v = np.zeros((N, D))
    for number in range(1, 4):
        batch = batch_of([[0, 3]], number, number)
        delta = np.zeros((N, D))
        delta[[0, 3]] = batch.tables["item"].values
        m, v = b1 * m + (1 - b1) * delta, b2 * v + (1 - b2) * delta**2
        rate = eta * np.sqrt(1 - b2 ** (number + 1)) / (1 - b1 ** (number + 1))
        x = x + rate * m / (np.sqrt(v) + tau)
        state, params = checked_apply(
            strategy, through_a_file(state), params, {0: strategy.reduce(batch)}, context(number)
        )
        np.testing.assert_allclose(params["item"], x, rtol=1e-5, atol=1e-5)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
arrays = st.builds(
    lambda kind, shape: np.full(shape, 3, kind),
    st.sampled_from(["float32", "float64", "int64", "bool"]),
    st.lists(st.integers(0, 3), max_size=3),
)
numbers = st.builds(lambda kind: np.dtype(kind).type(2), st.sampled_from(["float32", "int64"]))
kept = st.recursive(
    scalars | arrays | numbers,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(), kept, max_size=4))
def test_attributes_come_back_as_they_were(attributes: dict[str, Any]) -> None:
    state, others = state_of(attributes)
    assert others == {}
    again = attributes_of(through_a_file(state))
    assert as_bytes(again) == as_bytes(attributes)
    assert repr(again) == repr(attributes)  # tuples are no lists, numpy's numbers not Python's


def test_records_come_back_with_their_names_in_order() -> None:
    record = ArrayRecord({name: Array(np.asarray(value)) for name, value in PARAMS.items()})
    state, _ = state_of({"record": record})
    again = attributes_of(through_a_file(state))["record"]
    assert isinstance(again, ArrayRecord)
    assert list(again) == list(PARAMS)
    assert as_bytes({str(n): a.numpy() for n, a in again.items()}) == as_bytes(PARAMS)


# What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"of": "FedAvg"}, "of: .*expected package.module:Class"),
        ({"of": FLOWER + "FedAvgg"}, "of: .*has no 'FedAvgg'"),
        ({"of": FLOWER + "Result"}, r"of: expected a subclass of flwr\.serverapp"),
        ({"of": "flwr.server.strategy:FedAvg"}, r"of: expected a subclass of flwr\.serverapp"),
        ({"of": FLOWER + "Strategy"}, "of: .*does not define aggregate_evaluate, "),
        ({"of": FLOWER + "QFedAvg"}, "options: .*client_learning_rate"),
        ({"options": {"min_available_nodes": 3}}, "options: min_available_nodes .*rounds.cohort"),
        ({"options": {"fraction_train": 0.5}}, "options: fraction_train .*rounds.cohort_size"),
        ({"of": FLOWER + "FedAdam", "options": {"eta_l": 1}}, "options: eta_l .*train.optimizers"),
        (
            {"of": FLOWER + "FedTrimmedAvg", "options": {"betta": 1}},
            r"options: .*'betta' \(did you mean 'beta'",
        ),
        (
            {"of": FLOWER + "FedTrimmedAvg", "options": {"beta": 0.7}},
            r"options: .*`beta` must be in the range \[0, 0.5\)",
        ),
        ({"unit": "clients"}, "unit: expected 'client' or 'node'"),
    ],
)
def test_a_bad_setting_is_one_line(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        Flower.model_validate(fields)
    assert "\n" not in str(error.value)


class Whole(FedAvg):
    """A strategy that does what its option says."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.hidden: Any = np.random.default_rng(0) if fault == "generator" else None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        while self.fault == "waits" and not list(grid.get_node_ids()):
            time.sleep(0.001)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = super().aggregate_train(server_round, replies)
        assert arrays is not None
        if self.fault == "raises":
            raise ZeroDivisionError("no\nweight")
        if self.fault == "hides":
            self.hidden = object()
        if self.fault == "drops":
            del arrays["bias"]
        if self.fault == "record":
            return {}, metrics  # type: ignore[return-value]
        return arrays, metrics


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("generator", "round 0: .*Whole keeps a Generator as 'hidden', which a checkpoint cannot"),
        ("hides", "round 1: .*Whole keeps a object as 'hidden', which a checkpoint cannot hold"),
        ("raises", "round 1: .*Whole: aggregate_train: no weight"),
        ("record", "round 1: .*Whole: aggregate_train returned dict, expected an ArrayRecord"),
        ("drops", r"round 1, strategy flower: apply returned nothing, expected 'bias'"),
        ("waits", "round 1: .*configure_train: it waits for nodes"),
    ],
)
def test_a_strategy_at_fault_is_named(fault: str, said: str) -> None:
    strategy = Flower.model_validate({"of": HERE + "Whole", "options": {"fault": fault}})
    with pytest.raises(ConfigError, match=said) as error:
        apply(strategy, [batch_of([[0], [1]], 0)])
    assert "\n" not in str(error.value)


def test_what_would_be_told_to_clients_is_refused() -> None:
    with pytest.raises(ConfigError, match="FedProx tells clients 'proximal-mu'"):
        checked_init(flower("FedProx", proximal_mu=0.1), PARAMS, context(0))


def test_a_round_of_which_nothing_is_made_changes_nothing_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    strategy = flower("Bulyan", num_malicious_nodes=1)  # takes 7 clients
    with caplog.at_level(logging.WARNING, "fedrec"):
        state, params = apply(strategy, [batch_of([[0], [1]], 0)])
        state, again = apply(strategy, [batch_of([[0], [1]], 0)], state, 2)
    assert as_bytes(params) == as_bytes(again) == as_bytes(PARAMS)
    (line,) = caplog.messages
    assert line.startswith("round 1: flwr.serverapp.strategy:Bulyan returns nothing for 2 replies")
    (note,) = strategy.notes(state)
    assert note.startswith("flwr.serverapp.strategy:Bulyan returned nothing in 2 rounds")
