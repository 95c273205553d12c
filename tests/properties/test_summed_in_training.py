"""Rows summed while they are trained have the sums of rows that were handed over and summed."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.codec import payload_bytes
from fedrec.aggregation.update import Aggregate, UpdateBatch
from fedrec.errors import NumericError
from fedrec.models.pfedrec import PFedRec
from fedrec.training.client_rule import client_rule_of
from fedrec.training.clients import train_clients
from fedrec.types import Shard
from strategies import STRATEGIES, Composed, FedAvg, QFedAvg
from strategies.aggregations.mean import Mean
from tests.planted import federations, initial_state, method_of, rates, shard_of
from tests.properties.test_invariance import (
    NUMBA_FORMS,
    NUMBA_TRAINS,
    personal,
    raw,
    raw_partial,
)

pytest.importorskip("numba", reason="needs the extra 'sim'")

AVERAGING: dict[str, dict[str, Any]] = {
    "fedavg": {"aggregation": {"weighting": "examples"}},
    "fedadam": {"aggregation": {"average": "sum", "weighting": "examples"}},
    "fedprox": {"client_rule": {"mu": 0.1}},
}


@pytest.mark.parametrize("name", AVERAGING)
@pytest.mark.parametrize("form", NUMBA_FORMS)
@settings(max_examples=6, deadline=None)
@given(
    shard=federations(),
    train=NUMBA_TRAINS,
    seed=st.integers(0, 9),
    own=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_the_sums_are_those_of_the_rows(
    name: str, form: str, shard: Shard, train: dict[str, Any], seed: int, own: bool, dtype: str
) -> None:
    strategy = STRATEGIES[name].model_validate(AVERAGING[name])
    model = PFedRec(embedding_dim=4, init_std=0.5) if own else None
    method = method_of(train, personal(form), model, dtype, seed, client_rule_of(strategy))
    params, local = initial_state(method, shard)
    rows, after = train_clients(method, shard, params, local, 1)
    summed, later = train_clients(method, shard, params, local, 1, summing=strategy.summing)
    assert {*summed.summed, *summed.tables} == set(rows.tables)
    assert raw_partial(strategy.reduce(summed)) == raw_partial(strategy.reduce(rows))
    assert payload_bytes(summed).tolist() == payload_bytes(rows).tolist()
    assert raw(rows, after) == raw(rows, later)
    assert summed.metrics["loss"].tobytes() == rows.metrics["loss"].tobytes()


@pytest.mark.parametrize("n_items", [40, 700, 40_000])
def test_the_bytes_of_clients_are_counted_in_machine_code_as_in_torch(n_items: int) -> None:
    """Bitmaps, and gaps of one, two and three bytes."""
    rng = np.random.default_rng(0)
    sizes = [n_items // 4, n_items // 80 + 1, 12, 3, 2, 1, 1, 1]
    rows = [sorted(rng.choice(n_items, size, replace=False).tolist()) for size in sizes]
    shard, counted = shard_of(n_items, rows), {}
    for backend in ("numba", "torch"):
        task = method_of({"backend": backend})
        params, local = initial_state(task, shard)
        update, _ = train_clients(task, shard, params, local, 1, summing=FedAvg().summing)
        assert bool(update.summed) == (backend == "numba")
        counted[backend] = payload_bytes(update).tolist()
    assert counted["numba"] == counted["torch"]


def trained(rows: list[list[int]], lr: float = 0.1) -> UpdateBatch:
    method, shard = method_of({"backend": "numba", "optimizers": rates(lr)}), shard_of(9, rows)
    params, local = initial_state(method, shard)
    return train_clients(method, shard, params, local, 1, summing=FedAvg().summing)[0]


def test_they_are_summed_where_they_may_be_as_many_as_the_items() -> None:
    assert trained([[0, 1], [2, 3]]).summed and not trained([[0, 1], [2, 3]]).tables
    assert trained([[0]]).tables and not trained([[0]]).summed


def test_rows_that_cannot_be_summed_are_an_error() -> None:
    with pytest.raises(NumericError, match="'item'"):
        trained([[0, 1], [2, 3]], lr=1e30)
    with pytest.raises(NumericError, match="'item'"):
        FedAvg().reduce(trained([[0]], lr=1e30))


class Halved(Mean):
    """Looks at every client's rows."""

    def reduce(self, batch: UpdateBatch) -> Aggregate:
        return super().reduce(batch)


def test_who_reduces_in_a_way_of_its_own_gets_the_rows() -> None:
    assert Composed(aggregation=Halved()).summing is None
    assert QFedAvg().summing is None
    for strategy in (of_table() for of_table in STRATEGIES.values()):
        assert strategy.summing is None or not strategy.sees_each
    assert FedAvg().summing is not None


def test_kernels_without_sums_hand_over_the_rows() -> None:
    method = method_of({"backend": "torch"})
    shard = shard_of(9, [[0, 1], [2, 3]])
    params, local = initial_state(method, shard)
    plain = raw(*train_clients(method, shard, params, local, 1))
    asked = train_clients(method, shard, params, local, 1, summing=FedAvg().summing)
    assert raw(*asked) == plain
    assert np.all(np.isfinite(asked[0].tables["item"].values))
