"""No bit depends on who is computed together, where, in which order, and by how many threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.update import Aggregate, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.evaluation.scorer import UserScorer
from fedrec.models.base import Model
from fedrec.models.mf import MatrixFactorization
from fedrec.personalization.base import NoPersonalization, Personalization
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.training.client_rule import client_rule_of
from fedrec.training.clients import train_clients
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, IntArray, Params, Shard, State
from strategies import FedAvg, Strategy
from tests.contracts.every_option import NAMES, strategies_of
from tests.contracts.own_models import BiasedMF, Weighted
from tests.planted import (
    federations,
    in_numba,
    initial_state,
    method_of,
    rates,
    shard_of,
    split_state,
)

KERNEL: dict[str, Any] = {"branch": "similarity", "tau": 2.0}
TABLE: dict[str, Any] = {"branch": "table", "persistence": 0.5}
FORMS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "kernel-alignment": KERNEL | {"decorrelation": 0.05},
    "kernel-residual": KERNEL | {"balance": "residual", "history_cap": 2, "beta": 3.0},
    "kernel-trace": KERNEL | {"balance": "trace", "mode": "decoupled", "centre": False},
    "kernel-decoupled": KERNEL | {"mode": "decoupled", "history_cap": 2},
    "kernel-fixed": KERNEL | {"balance": "fixed", "value": 0.7, "per": "row"},
    "kernel-extra": KERNEL | {"decorrelation": 0.1, "extra_rows": 3},
    "table-alignment": TABLE | {"decorrelation": 0.05, "extra_rows": 2},
    "table-residual": TABLE | {"balance": "residual", "view": "single", "decorrelation": 0.1},
    "table-trace": TABLE | {"balance": "trace"},
    "table-fixed": TABLE | {"balance": "fixed", "value": 0.3},
}
TRAINS = st.fixed_dictionaries(
    {
        "loss": st.sampled_from(["bce", "bpr"]),
        "reduction": st.sampled_from(["sum", "mean"]),
        "negatives": st.integers(1, 4),
        "local_epochs": st.integers(1, 2),
        "batch_size": st.sampled_from(["full", 1, 2, 5]),
        "optimizers": st.builds(
            rates, st.just(0.1), st.fixed_dictionaries({"name": st.sampled_from(["sgd", "adam"])})
        ),
        "weight_decay": st.sampled_from([0.0, 0.2]),
    }
)


def personal(form: str) -> Personalization:
    fields = FORMS[form]
    return NoPersonalization() if fields is None else PLGC.model_validate(fields)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def rounds(
    task: ClientTask, shard: Shard, params: Params, local: Params, chunk: int
) -> tuple[UpdateBatch, dict[str, FloatArray]]:
    """Two rounds, so that what the first left behind counts too."""
    _, local = train_clients(task, shard, params, local, 1, chunk)
    return train_clients(task, shard, params, local, 2, chunk)


def raw(update: UpdateBatch, local: Params) -> dict[str, bytes]:
    """Every array that training gives, as bytes."""
    contents = {f"local.{name}": value.tobytes() for name, value in local.items()}
    for name, block in update.tables.items():
        for part in ("offsets", "ids", "values"):
            contents[f"{name}.{part}"] = getattr(block, part).tobytes()
    contents |= {f"dense.{name}": value.tobytes() for name, value in update.dense.items()}
    contents |= {f"metric.{name}": value.tobytes() for name, value in update.metrics.items()}
    contents |= {f"extra.{name}": value.tobytes() for name, value in update.extras.items()}
    return contents | {"weight": update.weight.tobytes()}


def raw_partial(aggregate: Aggregate) -> dict[str, Any]:
    contents: dict[str, Any] = {"clients": aggregate.clients, "weight": aggregate.weight}
    contents |= {"metrics": dict(aggregate.metrics), "scale": dict(aggregate.scale)}
    contents |= {"extras": dict(aggregate.extras)}
    for part in ("ids", "sums", "row_weight"):
        contents[part] = {name: v.tobytes() for name, v in getattr(aggregate, part).items()}
    if aggregate.each is not None:
        contents |= raw(aggregate.each, {}) | {"each": aggregate.each.client_ids.tobytes()}
    return contents


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=8, deadline=None)
@given(
    shard=federations(several=True),
    train=TRAINS,
    seed=st.integers(0, 9),
    model=st.sampled_from([None, BiasedMF(), Weighted()]),
)
def test_any_chunk_gives_the_same_bits(
    form: str, shard: Shard, train: dict[str, Any], seed: int, model: Model | None
) -> None:
    task = method_of(train, personal(form), model, seed=seed)
    params, local = initial_state(task, shard)
    expected = raw(*rounds(task, shard, params, local, 64))
    for chunk in (1, 3):
        assert raw(*rounds(task, shard, params, local, chunk)) == expected


def crowd(n_clients: int, n_items: int, most: int) -> Shard:
    """Clients of very unequal activity, two users each."""
    rng = np.random.default_rng(4)
    lengths = np.minimum(rng.lognormal(3, 1, 2 * n_clients).astype(int) + 1, most)
    rows = [rng.choice(n_items, size=n, replace=False).tolist() for n in lengths]
    return shard_of(n_items, rows, [2] * n_clients)


@pytest.mark.parametrize("form", ["none", "kernel-alignment", "table-residual"])
def test_any_chunk_and_thread_number_at_a_real_size(form: str) -> None:
    shard = crowd(15, 900, 300)
    model = MatrixFactorization(embedding_dim=64, init_std=0.1)
    task = method_of({"optimizers": rates(0.1)}, personal(form), model)
    params, local = initial_state(task, shard)
    results = []
    for chunk, count in ((64, 1), (1, 1), (7, 1), (64, 2)):
        with threads(count):
            results.append(raw(*train_clients(task, shard, params, local, 3, chunk)))
    assert all(other == results[0] for other in results[1:])


NUMBA_FORMS = [form for form in FORMS if in_numba(personal(form))]
NUMBA_TRAINS = TRAINS.map(lambda train: train | {"loss": "bce", "backend": "numba"})


@pytest.mark.parametrize("form", NUMBA_FORMS)
@settings(max_examples=15, deadline=None)
@given(shard=federations(), train=NUMBA_TRAINS, seed=st.integers(0, 9))
def test_in_machine_code_too_a_client_alone_has_the_bits_it_has_in_company(
    form: str, shard: Shard, train: dict[str, Any], seed: int
) -> None:
    pytest.importorskip("numba", reason="needs the extra 'sim'")
    task = method_of(train, personal(form), seed=seed)
    params, local = initial_state(task, shard)
    update, after = train_clients(task, shard, params, local, 2)
    block = update.tables["item"]
    for client in range(shard.n_clients):
        rows = np.array([client])
        private = split_state(task, shard, local, rows)
        alone, left = train_clients(task, shard.take(rows), params, private, 2)
        at = slice(int(block.offsets[client]), int(block.offsets[client + 1]))
        assert alone.tables["item"].ids.tobytes() == block.ids[at].tobytes()
        assert alone.tables["item"].values.tobytes() == block.values[at].tobytes()
        expected = split_state(task, shard, after, rows)
        assert {n: v.tobytes() for n, v in left.items()} == {
            n: v.tobytes() for n, v in expected.items()
        }
        for name, values in update.metrics.items():
            assert alone.metrics[name].tobytes() == values[rows].tobytes()


def of_nodes(
    task: ClientTask,
    shard: Shard,
    params: Params,
    local: Params,
    nodes: list[IntArray],
    s: Strategy,
) -> list[Aggregate]:
    """What each node answers."""
    aggregates = []
    for rows in nodes:
        private = split_state(task, shard, local, rows)
        update, _ = train_clients(task, shard.take(rows), params, private, 5)
        aggregates.append(s.reduce(update))
    return aggregates


def in_round(number: int, shard: Shard) -> RoundContext:
    return RoundContext(0, number, shard.n_clients, shard.n_items)


@pytest.mark.parametrize("form", ["none", "kernel-extra", "table-alignment"])
@settings(max_examples=12, deadline=None)
@given(shard=federations(several=True), train=TRAINS, data=st.data())
def test_any_order_and_any_nodes_give_the_same_bits(
    form: str, shard: Shard, train: dict[str, Any], data: st.DataObject
) -> None:
    strategy = data.draw(st.sampled_from(NAMES).flatmap(strategies_of))
    model = data.draw(st.sampled_from([None, BiasedMF()]))
    task = method_of(train, personal(form), model, client_rule=client_rule_of(strategy))
    task = replace(task, measures=strategy.measures)
    initial, local = initial_state(task, shard)
    state = strategy.init(initial, in_round(0, shard))
    params = strategy.broadcast(state, initial, shard.client_ids, in_round(5, shard)).shared
    order = np.array(data.draw(st.permutations(range(shard.n_clients))), np.int64)
    cuts = sorted(data.draw(st.sets(st.integers(1, shard.n_clients), max_size=3)))
    nodes = [part for part in np.split(order, cuts) if len(part)]

    everybody = np.arange(shard.n_clients)
    (expected,) = of_nodes(task, shard, params, local, [everybody], strategy)
    aggregates = of_nodes(task, shard, params, local, nodes, strategy)
    merged = reduce(strategy.merge, aggregates)
    assert raw_partial(merged) == raw_partial(expected)
    backwards = reduce(lambda a, b: strategy.merge(b, a), aggregates)
    assert raw_partial(backwards) == raw_partial(expected)
    after = [
        strategy.apply(state, initial, {0: aggregate}, in_round(5, shard))[1]
        for aggregate in (expected, merged)
    ]
    assert all(after[0][name].tobytes() == after[1][name].tobytes() for name in initial)


@pytest.mark.parametrize("form", ["none", "kernel-alignment", "kernel-fixed", "table-trace"])
@settings(max_examples=8, deadline=None)
@given(shard=federations(several=True), data=st.data())
def test_a_user_ranks_alike_in_any_company(form: str, shard: Shard, data: st.DataObject) -> None:
    task = method_of({"optimizers": rates(0.1)}, personal(form))
    params, local = initial_state(task, shard)
    _, local = train_clients(task, shard, params, local, 1)
    everybody = UserScorer(task, shard, params, local)(np.arange(shard.n_users))
    client = data.draw(st.integers(0, shard.n_clients - 1))
    rows = np.array([client])
    alone = UserScorer(task, shard.take(rows), params, split_state(task, shard, local, rows))
    users = np.flatnonzero(shard.client_of_user() == client)
    for at, user in enumerate(users):
        for view, scores in alone(np.array([at])).items():
            assert scores.numpy().tobytes() == everybody[view][user : user + 1].numpy().tobytes()


@settings(max_examples=10, deadline=None)
@given(shard=federations(), seed=st.integers(0, 9), model=st.sampled_from([None, BiasedMF()]))
def test_a_second_run_is_the_first_and_another_seed_is_not(
    shard: Shard, seed: int, model: Model | None
) -> None:
    def run(of: int) -> dict[str, bytes]:
        task = method_of({"optimizers": rates(0.1)}, personal("kernel-alignment"), model, seed=of)
        return raw(*rounds(task, shard, *initial_state(task, shard), 64))

    assert run(seed) == run(seed)
    assert run(seed) != run(seed + 1)


@settings(max_examples=10, deadline=None)
@given(shard=federations(), factor=st.floats(0.01, 100.0))
def test_weights_times_a_constant_change_no_mean(shard: Shard, factor: float) -> None:
    task = method_of({"optimizers": rates(0.1)}, model=BiasedMF())
    params, local = initial_state(task, shard)
    update, _ = train_clients(task, shard, params, local, 1)
    scaled = replace(update, weight=update.weight * factor)
    for average in ("per_row", "cohort"):
        strategy = FedAvg(aggregation={"average": average, "weighting": "examples"})
        plain, other = (
            strategy.apply(State(), params, {0: strategy.reduce(batch)}, in_round(1, shard))[1]
            for batch in (update, scaled)
        )
        for name in params:
            np.testing.assert_allclose(plain[name], other[name], rtol=1e-6, atol=1e-7)
