"""Clustered averaging: planted groups are found, and each goes its own way as far as it may."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.mix import values_of
from fedrec.aggregation.update import Aggregate, Down, RowBlock, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.ragged import offsets_of
from fedrec.types import FloatArray, IntArray, Params, State
from strategies import Clustered, FedAvg

N, D = 12, 3
START: Params = {
    "item": np.linspace(-1, 1, N * D).reshape(N, D).astype(np.float32),
    "constant": np.array(0.5, np.float32),
}


def update(clients: Sequence[int], directions: FloatArray, seed: int = 0) -> UpdateBatch:
    """Clients that pull some random items, each in its direction.

    Args:
        clients: Their ids, ascending.
        directions: float [n, D], of all clients.
        seed: Of the items and of what differs from client to client.
    """
    rng = np.random.default_rng(seed)
    items = [np.sort(rng.choice(N, rng.integers(4, N + 1), replace=False)) for _ in clients]
    offsets = offsets_of(np.array([len(row) for row in items]))
    pulls = np.concatenate(
        [np.tile(directions[c], (len(row), 1)) for c, row in zip(clients, items, strict=True)]
    )
    values = (pulls + 0.2 * rng.standard_normal(pulls.shape)).astype(np.float32)
    ids = np.array(clients, np.int64)
    ones = np.ones(len(ids))
    table = {"item": RowBlock(offsets, np.concatenate(items), values)}
    dense = {"constant": directions[ids, 0].astype(np.float32)}
    return UpdateBatch(1, ids, ones, table, dense, {"loss": ones, "examples": ones})


def in_round(number: int, n_clients: int = 8) -> RoundContext:
    return RoundContext(0, number, n_clients, N)


def sent(strategy: Clustered, state: State, params: Params, client: int) -> Params:
    """What a client receives."""
    one = np.array([client])
    down = strategy.broadcast(state, params, one, in_round(9))
    return {**down.shared, **{name: values_of(mix, one * 0)[0] for name, mix in down.own.items()}}


def step(
    strategy: Clustered, state: State, params: Params, batch: UpdateBatch, number: int = 1
) -> tuple[State, Params]:
    """One round: an aggregate for each group."""
    group = strategy.groups(state, batch.client_ids)
    aggregates: dict[int, Aggregate] = {
        g: strategy.reduce(batch.take(np.flatnonzero(group == g)))
        for g in np.unique(group).tolist()
    }
    return strategy.apply(state, params, aggregates, in_round(number))


def planted(groups: int, n: int, seed: int) -> tuple[IntArray, FloatArray]:
    """Who belongs to which group, and the direction of each client: two groups are opposite."""
    member = np.random.default_rng(seed).permutation(np.arange(n) % groups)
    centres = np.eye(D) if groups == 3 else np.array([[1.0], [-1.0]]) * np.ones(D)
    return member, centres[member]


def same_partition(a: IntArray, b: IntArray) -> bool:
    return len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(set(a)) == len(set(b))


@settings(max_examples=15, deadline=None)
@given(groups=st.integers(1, 2), n=st.integers(4, 20), seed=st.integers(0, 999))
def test_planted_groups_are_recovered(groups: int, n: int, seed: int) -> None:
    """In every round of the warm-up some clients stay away."""
    member, directions = planted(groups, n, seed)
    strategy = Clustered(clusters=groups, warmup=4, buckets=8)
    state, params = strategy.init(START, in_round(0, n)), START
    for number in range(1, 5):
        assert (strategy.groups(state, np.arange(n)) == 0).all()
        assert strategy.broadcast(state, params, np.arange(n), in_round(number)) == Down(params)
        clients = [c for c in range(n) if (c + number) % 3]
        batch = update(clients, directions, seed + number)
        state, params = step(strategy, state, params, batch, number)
    assert same_partition(strategy.groups(state, np.arange(n)), member)
    assert "sketches" not in state.arrays


def test_three_groups_are_recovered_from_clients_with_different_items() -> None:
    member, directions = planted(3, 30, 1)
    strategy = Clustered(clusters=3, warmup=2)
    state, params = strategy.init(START, in_round(0, 30)), START
    for number in (1, 2):
        state, params = step(strategy, state, params, update(range(30), directions, number), number)
    assert same_partition(strategy.groups(state, np.arange(30)), member)


def test_a_client_that_was_not_heard_is_in_group_0() -> None:
    member, directions = planted(2, 12, 0)
    strategy = Clustered(clusters=2, warmup=2)
    state, params = strategy.init(START, in_round(0, 12)), START
    for number in (1, 2):
        state, params = step(strategy, state, params, update(range(9), directions, number), number)
    group = strategy.groups(state, np.arange(12))
    assert same_partition(group[:9], member[:9])
    assert (group[9:] == 0).all()
    # It is served, too, and may train.
    assert set(sent(strategy, state, params, 11)) == set(START)
    later, _ = step(strategy, state, params, update([9, 10, 11], directions, 7))
    assert (strategy.groups(later, np.arange(12)) == group).all()


@pytest.mark.parametrize("clusters", [1, 3, 50])
def test_alike_clients_are_no_more_groups_than_there_are_directions(clusters: int) -> None:
    one = update([0], np.ones((1, D)), 3)
    ids = np.tile(one.tables["item"].ids, 4)
    values = np.tile(one.tables["item"].values, (4, 1))
    block = RowBlock(offsets_of(np.full(4, len(ids) // 4)), ids, values)
    ones = np.ones(4)
    batch = UpdateBatch(
        1,
        np.arange(4),
        ones,
        {"item": block},
        {"constant": ones.astype(np.float32)},
        {"loss": ones},
    )
    strategy = Clustered(clusters=clusters, warmup=1)
    state, _ = step(strategy, strategy.init(START, in_round(0, 6)), START, batch)
    assert (strategy.groups(state, np.arange(6)) == 0).all()


# What the groups do --------------------------------------------------------------------------


@pytest.fixture(params=[0.0, 0.25, 1.0], ids=lambda share: f"share={share}")
def grouped(request: pytest.FixtureRequest) -> tuple[Clustered, State, Params, FloatArray]:
    """Two groups of opposite clients, made after one round, and the directions."""
    directions = np.where(np.arange(8)[:, None] % 2 == 1, 1.0, -1.0) * np.ones((1, D))
    strategy = Clustered(clusters=2, warmup=1, share=request.param, server_lr=0.5)
    state, params = step(
        strategy, strategy.init(START, in_round(0, 8)), START, update(range(8), directions)
    )
    return strategy, state, params, directions


def changes(before: Params, after: Params) -> dict[str, FloatArray]:
    return {name: np.asarray(after[name], float) - before[name] for name in before}


def test_a_group_follows_itself_and_everybody_by_its_share(
    grouped: tuple[Clustered, State, Params, FloatArray],
) -> None:
    strategy, state, params, directions = grouped
    batch = update(range(8), directions, seed=5)
    later, after = step(strategy, state, params, batch)
    plain = FedAvg(server_optimizer={"lr": 0.5})

    def mean(rows: IntArray) -> dict[str, FloatArray]:
        aggregates = {0: plain.reduce(batch.take(rows))}
        return changes(params, plain.apply(State(), params, aggregates, in_round(2))[1])

    group, share = strategy.groups(state, np.arange(8)), strategy.share
    everybody = mean(np.arange(8))
    for name, change in changes(params, after).items():
        np.testing.assert_allclose(change, everybody[name], atol=1e-6)
    for client, g in enumerate(group.tolist()):
        before, following = (sent(strategy, s, params, client) for s in (state, later))
        own = mean(np.flatnonzero(group == g))
        for name, change in changes(before, following).items():
            expected = (1 - share) * own[name] + share * everybody[name]
            np.testing.assert_allclose(change, expected, atol=1e-6)
            if share == 1:
                assert np.array_equal(following[name], after[name])
    if share == 0:
        signs = [
            np.sign(changes(START, sent(strategy, later, after, client))["constant"])
            for client in (0, 1)
        ]
        assert signs[0] == -signs[1] != 0


def test_a_group_without_clients_in_the_round_moves_with_everybody_only(
    grouped: tuple[Clustered, State, Params, FloatArray],
) -> None:
    strategy, state, params, directions = grouped
    group = strategy.groups(state, np.arange(8))
    batch = update(np.flatnonzero(group == 1).tolist(), directions, seed=5)
    later, after = step(strategy, state, params, batch)
    away = int(np.flatnonzero(group == 0)[0])
    before, following = (sent(strategy, s, params, away) for s in (state, later))
    for name, change in changes(before, following).items():
        expected = strategy.share * changes(params, after)[name]
        np.testing.assert_allclose(change, expected, atol=1e-6)


def test_base_values_are_those_of_the_groups(
    grouped: tuple[Clustered, State, Params, FloatArray],
) -> None:
    """However many clients receive them: two tables, and who has which."""
    strategy, state, params, _ = grouped
    group = strategy.groups(state, np.arange(8))
    down = strategy.published(state, params, in_round(2))
    assert (down.shared, set(down.own)) == ({}, set(START))
    for name, mix in down.own.items():
        assert mix.bases.shape == (2, *START[name].shape)
        assert mix.weights.tolist() == np.eye(2)[group].tolist()


# The sketch ----------------------------------------------------------------------------------


def test_the_sketch_keeps_inner_products_in_the_mean() -> None:
    """Over many sets of items, whose hashes are independent, with few buckets for all of them."""
    rng = np.random.default_rng(0)
    rows, sets, buckets = 20, 3000, 4
    x, y = rng.standard_normal((2, rows, D)).astype(np.float32)
    y = 0.5 * x + y
    offsets = offsets_of(np.full(2 * sets, rows))
    ids = np.concatenate([np.tile(np.arange(rows) + k * rows, 2) for k in range(sets)])
    values = np.tile(np.concatenate([x, y]), (sets, 1))
    ones = np.ones(2 * sets)
    batch = UpdateBatch(1, np.arange(2 * sets), ones, {"item": RowBlock(offsets, ids, values)}, {})
    start = {"item": np.zeros((rows * sets, D), np.float32)}
    strategy = Clustered(warmup=2, buckets=buckets)
    state = strategy.init(start, in_round(0, 2 * sets))
    state, _ = step(strategy, state, start, batch)
    assert state.arrays["sketches"].shape == (2 * sets, buckets, D)
    of_x, of_y = (
        state.arrays["sketches"][0::2].astype(float),
        state.arrays["sketches"][1::2].astype(float),
    )
    for a, b, exact in ((of_x, of_y, (x * y).sum()), (of_x, of_x, (x * x).sum())):
        products = (a * b).sum((1, 2))
        error = products.std() / np.sqrt(sets)
        assert abs(products.mean() - exact) < 4 * error
        assert error < 0.05 * abs(exact)


def test_the_sketches_of_the_rounds_add_up() -> None:
    strategy = Clustered(warmup=9, buckets=4)
    directions = np.ones((3, D))
    batches = [update(range(3), directions, k) for k in range(3)]
    state, params = strategy.init(START, in_round(0, 5)), START
    seen = [state.arrays["sketches"]]
    for number, batch in enumerate(batches, 1):
        state, params = step(strategy, state, params, batch, number)
        seen.append(state.arrays["sketches"])
    apart = [
        step(strategy, strategy.init(START, in_round(0, 5)), START, b)[0].arrays["sketches"]
        for b in batches
    ]
    for (before, after), alone in zip(pairwise(seen), apart, strict=True):
        np.testing.assert_allclose(after - before, alone, atol=1e-5)
    assert not seen[-1][3:].any()
