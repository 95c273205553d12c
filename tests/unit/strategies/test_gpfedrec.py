"""GPFedRec: who is whose neighbour, and what each client receives."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.mix import values_of
from fedrec.aggregation.returned import checked_apply, checked_broadcast, checked_init
from fedrec.aggregation.update import RowBlock, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.ragged import offsets_of
from fedrec.training.client_rule import ClientRule
from fedrec.types import FloatArray, Params, State
from strategies import FedAvg, GPFedRec

ITEMS, WIDTH, CLIENTS = 6, 2, 6
PARAMS: Params = {
    "item": np.linspace(-1, 1, ITEMS * WIDTH, dtype=np.float32).reshape(ITEMS, WIDTH),
    "bias": np.zeros(ITEMS, np.float32),
    "head": np.ones((2, 3), np.float32),
}
CONTEXT = RoundContext(0, 1, CLIENTS, ITEMS)


def batch_of(changes: dict[int, FloatArray]) -> UpdateBatch:
    """Clients by id, and the change of their item table: rows of zeros are not uploaded."""
    ids = [np.flatnonzero(change.any(1)) for change in changes.values()]
    offsets, items = offsets_of(np.array([len(each) for each in ids])), np.concatenate(ids)
    rows = np.concatenate([c[at] for c, at in zip(changes.values(), ids, strict=True)])
    tables = {
        "item": RowBlock(offsets, items, rows.astype(np.float32)),
        "bias": RowBlock(offsets, items, np.ones(len(items), np.float32)),
    }
    head = np.stack([np.full((2, 3), client, np.float32) for client in changes])
    clients, n = np.array(list(changes), np.int64), len(changes)
    return UpdateBatch(1, clients, np.ones(n), tables, {"head": head})


def changes_of(clients: Any, seed: int = 0) -> dict[int, FloatArray]:
    """Clients of even number pull all items one way, those of odd number the other way."""
    rng = np.random.default_rng(seed)
    noise = 0.1 * rng.standard_normal((CLIENTS, ITEMS, WIDTH))
    return {client: 5 * (-1) ** client + noise[client] for client in clients}


def rounds(strategy: GPFedRec, *batches: UpdateBatch) -> tuple[State, Params]:
    state, params = checked_init(strategy, PARAMS, CONTEXT), PARAMS
    for batch in batches:
        aggregates = {0: strategy.reduce(batch)}
        state, params = checked_apply(strategy, state, params, aggregates, CONTEXT)
    return state, params


def received(strategy: GPFedRec, state: State, params: Params) -> FloatArray:
    """What each client receives, float32 [c, n_items, d]."""
    everybody = np.arange(CLIENTS)
    down = checked_broadcast(strategy, ClientRule(), state, params, everybody, CONTEXT)
    assert "item" not in down.shared
    return values_of(down.own["item"], everybody)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"neighbours": 3},
    {"neighbours": 3, "similarity": "changes", "buckets": 4},
    {"similarity": "changes", "layers": 2},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_client_receives_the_mean_of_those_that_pull_its_way(settings: dict[str, Any]) -> None:
    strategy, changes = GPFedRec(**settings), changes_of(range(CLIENTS))
    state, params = rounds(strategy, batch_of(changes))
    tables = np.stack([PARAMS["item"] + changes[client] for client in range(CLIENTS)])
    np.testing.assert_allclose(state.arrays["tables"], tables, rtol=1e-6)
    means = np.stack([tables[::2].mean(0), tables[1::2].mean(0)])[[0, 1, 0, 1, 0, 1]]
    np.testing.assert_allclose(received(strategy, state, params), means, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(params["item"], tables.mean(0), rtol=1e-5, atol=1e-6)
    # The next round starts from what was received.
    more = changes_of([1, 4], seed=1)
    state, params = rounds(strategy, batch_of(changes), batch_of(more))
    for client in range(CLIENTS):
        expected = means[client] + more[client] if client in more else tables[client]
        np.testing.assert_allclose(state.arrays["tables"][client], expected, rtol=1e-5, atol=1e-6)


def test_as_published_by_mistake_it_is_those_least_alike() -> None:
    strategy, changes = GPFedRec(distance=True), changes_of(range(CLIENTS))
    state, params = rounds(strategy, batch_of(changes))
    tables = state.arrays["tables"]
    means = np.stack([tables[1::2].mean(0), tables[::2].mean(0)])[[0, 1, 0, 1, 0, 1]]
    np.testing.assert_allclose(received(strategy, state, params), means, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("distance", [False, True])
@pytest.mark.parametrize("neighbours", ["above_mean", 1])
def test_a_client_without_neighbours_has_its_own_table(distance: bool, neighbours: Any) -> None:
    strategy = GPFedRec(distance=distance, neighbours=neighbours)
    state, params = rounds(strategy, batch_of(changes_of([3])))
    own = received(strategy, state, params)
    assert own[3].tobytes() == state.arrays["tables"][0].tobytes()
    # Who is new receives the mean, here of one.
    assert own[0].tobytes() == params["item"].tobytes() == own[3].tobytes()


def test_the_new_receive_the_mean() -> None:
    strategy, changes = GPFedRec(neighbours=1), changes_of([0, 1, 4])
    state, params = rounds(strategy, batch_of(changes))
    own = received(strategy, state, params)
    mean = np.mean([PARAMS["item"] + change for change in changes.values()], axis=0)
    for client in (2, 3, 5):
        assert own[client].tobytes() == params["item"].tobytes()
        np.testing.assert_allclose(own[client], mean, rtol=1e-5)
    for place, client in enumerate(changes):
        assert own[client].tobytes() == state.arrays["tables"][place].tobytes()


def test_with_all_for_neighbours_everybody_receives_the_mean_of_fedavg() -> None:
    batch = batch_of(changes_of(range(CLIENTS)))
    strategy, fedavg = GPFedRec(neighbours=CLIENTS), FedAvg()
    state, params = rounds(strategy, batch)
    _, expected = fedavg.apply(
        fedavg.init(PARAMS, CONTEXT), PARAMS, {0: fedavg.reduce(batch)}, CONTEXT
    )
    np.testing.assert_allclose(params["item"], expected["item"], rtol=1e-5, atol=1e-6)
    for own in received(strategy, state, params):
        np.testing.assert_allclose(own, expected["item"], rtol=1e-5, atol=1e-6)
    for name in ("bias", "head"):
        assert params[name].tobytes() == expected[name].tobytes()


@pytest.mark.parametrize("settings", SETTINGS)
def test_more_layers_are_means_of_means(settings: dict[str, Any]) -> None:
    batch = batch_of(changes_of(range(CLIENTS)))
    one, three = (GPFedRec(**{**settings, "layers": layers}) for layers in (1, 3))
    weights, deep = (rounds(each, batch)[0].arrays["weights"] for each in (one, three))
    exact = np.linalg.matrix_power(weights.astype(np.float64), 3)
    np.testing.assert_allclose(deep, exact, atol=1e-5)
    np.testing.assert_allclose(deep.sum(1), 1, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    settings=st.sampled_from(SETTINGS),
    cohorts=st.lists(st.sets(st.integers(0, CLIENTS - 1), min_size=1), min_size=1, max_size=3),
    data=st.data(),
)
def test_it_does_not_matter_who_answers_first(
    settings: dict[str, Any], cohorts: list[set[int]], data: st.DataObject
) -> None:
    strategy = GPFedRec(**settings)
    state = other = strategy.init(PARAMS, CONTEXT)
    params: Params = PARAMS
    for number, cohort in enumerate(cohorts):
        changes, size = changes_of(sorted(cohort), number), strategy.state_bytes
        shuffled = {client: changes[client] for client in data.draw(st.permutations(list(changes)))}
        parts = [{client: change} for client, change in shuffled.items()]
        merged = strategy.reduce(batch_of(parts[0]))
        for part in parts[1:]:
            merged = strategy.merge(merged, strategy.reduce(batch_of(part)))
        together = {0: strategy.reduce(batch_of(changes))}
        other, _ = strategy.apply(other, params, {0: merged}, CONTEXT)
        state, params = strategy.apply(state, params, together, CONTEXT)
        assert {n: a.tobytes() for n, a in state.arrays.items()} == {
            n: a.tobytes() for n, a in other.arrays.items()
        }
        shapes = {name: value.shape for name, value in PARAMS.items()}
        n = len(state.arrays["clients"])
        assert size(shapes, n) == sum(array.nbytes for array in state.arrays.values())
