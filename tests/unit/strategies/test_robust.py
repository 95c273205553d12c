"""Median and Krum against Flower's, by hand, and against clients that send anything at all."""

from collections.abc import Sequence

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedMedian, MultiKrum
from flwr.serverapp.strategy import Krum as FlowerKrum
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.compute.context import RoundContext
from fedrec.flower.grid import claim_identity
from fedrec.ragged import offsets_of
from fedrec.types import FloatArray, Params, RowBlock, UpdateBatch
from strategies import FedAvg, Krum, Median, Strategy

N, D = 5, 3
START: dict[str, FloatArray] = {
    "item": np.linspace(-1, 1, N * D).reshape(N, D).astype(np.float32),
    "head": np.ones((2, D), np.float32),
    "constant": np.array(0.5, np.float32),
}


def batch_of(changes: FloatArray, dense: bool = False) -> UpdateBatch:
    """Clients that touch every item; ``dense``: and change the dense parameters too.

    Args:
        changes: float32 [c, N, D].
        dense: Of rows 0 and 1, and the first number.
    """
    c = len(changes)
    ids = np.tile(np.arange(N), c)
    block = RowBlock(offsets_of(np.full(c, N)), ids, changes.reshape(c * N, D))
    heads = {"head": changes[:, :2], "constant": changes[:, 0, 0]} if dense else {}
    everybody = np.arange(c, dtype=np.int64)
    metrics = {"loss": np.zeros(c), "examples": np.ones(c)}
    return UpdateBatch(1, everybody, np.ones(c), {"item": block}, heads, metrics)


def ragged(rows: Sequence[dict[int, Sequence[float]]]) -> UpdateBatch:
    """Clients that touch some items, with the change of each."""
    ids = np.array([item for row in rows for item in row], np.int64)
    values = np.array([value for row in rows for value in row.values()], np.float32)
    offsets = offsets_of(np.array([len(row) for row in rows]))
    c = len(rows)
    metrics = {"loss": np.zeros(c), "examples": np.ones(c)}
    block = RowBlock(offsets, ids, values)
    return UpdateBatch(1, np.arange(c, dtype=np.int64), np.ones(c), {"item": block}, {}, metrics)


def after(strategy: Strategy, batch: UpdateBatch, start: Params) -> Params:
    context = RoundContext(0, 1, 99, N)
    state = strategy.init(start, context)
    return strategy.apply(state, start, {0: strategy.reduce(batch)}, context)[1]


def krum(byzantine: int, select: int = 1) -> Strategy:
    return Krum(aggregation={"byzantine": byzantine, "select": select})


def flowers(strategy: FlowerStrategy, models: Sequence[Params]) -> Params:
    """What Flower makes of the clients' parameters."""
    claim_identity()
    replies = []
    for model in models:
        arrays = {name: Array(np.asarray(value)) for name, value in model.items()}
        metrics = MetricRecord({"num-examples": 1, "loss": 0.0})
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
        asked = Message(RecordDict(), 1, "train")
        replies.append(Message(content, reply_to=asked))
    merged, _ = strategy.aggregate_train(1, replies)
    assert merged is not None
    return {str(name): array.numpy() for name, array in merged.items()}


def draws(seed: int, clients: int) -> FloatArray:
    return np.random.default_rng(seed).standard_normal((clients, N, D)).astype(np.float32)


# Against Flower's -----------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(clients=st.integers(1, 9), seed=st.integers(0, 999))
def test_the_median_is_flowers(clients: int, seed: int) -> None:
    batch = batch_of(draws(seed, clients), dense=True)
    start = {n: v.astype(np.float64) for n, v in START.items()}
    models = [
        {
            "item": start["item"] + batch.tables["item"].values[u * N : (u + 1) * N],
            "head": start["head"] + batch.dense["head"][u],
            "constant": start["constant"] + batch.dense["constant"][u],
        }
        for u in range(clients)
    ]
    expected, params = flowers(FedMedian(), models), after(Median(), batch, START)
    for name, value in expected.items():
        np.testing.assert_allclose(params[name], value, atol=1e-6, err_msg=name)


@settings(max_examples=15, deadline=None)
@given(
    byzantine=st.integers(0, 3),
    more=st.integers(0, 5),
    select=st.integers(1, 4),
    seed=st.integers(0, 999),
)
def test_krum_is_flowers_item_by_item(byzantine: int, more: int, select: int, seed: int) -> None:
    changes = draws(seed, 2 * byzantine + 3 + more)
    params = after(krum(byzantine=byzantine, select=select), batch_of(changes, dense=True), START)
    theirs: FlowerStrategy = MultiKrum(num_malicious_nodes=byzantine, num_nodes_to_select=select)
    if select == 1:
        theirs = FlowerKrum(num_malicious_nodes=byzantine)
    for item in range(N):
        models = [{"row": START["item"][item].astype(float) + one[item]} for one in changes]
        expected = flowers(theirs, models)["row"]
        np.testing.assert_allclose(params["item"][item], expected, atol=1e-6)
    # All dense parameters together are one vector of every client.
    heads = [
        {"head": START["head"].astype(float) + one[:2], "constant": np.array(0.5 + one[0, 0])}
        for one in changes
    ]
    for name, value in flowers(theirs, heads).items():
        np.testing.assert_allclose(params[name], value, atol=1e-6, err_msg=name)


# By hand --------------------------------------------------------------------------------------

ZERO: dict[str, FloatArray] = {"item": np.zeros((4, 1), np.float32)}
ROWS: list[dict[int, Sequence[float]]] = [
    {0: [1.0], 1: [4.0], 2: [9.0]},
    {0: [2.0], 1: [6.0]},
    {0: [9.0]},
]


def test_only_who_touched_an_item_has_a_say_in_its_median() -> None:
    params = after(Median(), ragged(ROWS), ZERO)["item"][:, 0]
    assert params.tolist() == [2.0, 5.0, 9.0, 0.0]
    half = after(Median(server_optimizer={"lr": 0.5}), ragged(ROWS), ZERO)["item"][:, 0]
    assert half.tolist() == [1.0, 2.5, 4.5, 0.0]


def test_krum_takes_the_client_in_the_crowd() -> None:
    # f = 1, m = 5: two nearest others. 0: 1 + 4, 1: 1 + 1, 2: 1 + 4, 3 and 4: far.
    rows = ragged([{0: [x]} for x in (0.0, 1.0, 2.0, 10.0, 20.0)])
    assert after(krum(byzantine=1), rows, ZERO)["item"][0, 0] == 1.0
    assert after(krum(byzantine=1, select=3), rows, ZERO)["item"][0, 0] == 1.0
    # All five of five: the mean, also if more are asked for than there are.
    for select in (5, 9):
        assert after(krum(byzantine=1, select=select), rows, ZERO)["item"][0, 0] == pytest.approx(
            6.6
        )


def test_of_equal_scores_the_lowest_client_is_taken() -> None:
    # f = 0, m = 4: two nearest others; the middle two score 1 + 1 and 1 + 1.
    rows = ragged([{0: [x]} for x in (3.0, 2.0, 1.0, 0.0)])
    assert after(krum(byzantine=0), rows, ZERO)["item"][0, 0] == 2.0
    assert after(krum(byzantine=0), ragged(rows_of(rows)[::-1]), ZERO)["item"][0, 0] == 1.0
    alike = ragged([{0: [7.0]}] * 5)
    assert after(krum(byzantine=1, select=2), alike, ZERO)["item"][0, 0] == 7.0


def rows_of(batch: UpdateBatch) -> list[dict[int, Sequence[float]]]:
    return [{0: value.tolist()} for value in batch.tables["item"].values]


@pytest.mark.parametrize(("byzantine", "enough"), [(0, 3), (1, 5), (2, 7)])
def test_too_few_clients_for_krum_are_a_median(byzantine: int, enough: int) -> None:
    values = [0.0, 0.1, 5.0, 5.1, 5.3, 5.6, 6.0]
    for m in range(1, enough + 1):
        rows = ragged([{0: [x]} for x in values[:m]])
        params = after(krum(byzantine=byzantine), rows, ZERO)["item"][0, 0]
        if m < enough:
            assert params == pytest.approx(np.median(values[:m]))
        else:
            assert np.isclose(params, values[:m]).any()


def test_items_that_nobody_touched_stay() -> None:
    for strategy in (Median(), Krum()):
        params = after(strategy, ragged([{2: [1.0]}, {2: [3.0]}, {}]), ZERO)["item"][:, 0]
        assert params.tolist() == [0.0, 0.0, 2.0, 0.0]


# Under attack ---------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    byzantine=st.integers(1, 3),
    select=st.integers(1, 2),
    scale=st.sampled_from([1e2, 1e4]),
    seed=st.integers(0, 999),
)
def test_garbage_does_not_move_the_robust_ones_out_of_the_crowd(
    byzantine: int, select: int, scale: float, seed: int
) -> None:
    """f of 2 f + 3 clients send garbage: every coordinate stays between those of the honest."""
    changes = draws(seed, 2 * byzantine + 3)
    rng = np.random.default_rng(seed + 1)
    liars = rng.choice(len(changes), byzantine, replace=False)
    changes[liars] = scale * (1 + rng.random((byzantine, N, D)))
    honest = np.delete(changes, liars, axis=0)
    start = {"item": np.zeros((N, D), np.float32)}
    low, high = honest.min(0) - 1e-6, honest.max(0) + 1e-6
    for strategy in (Median(), krum(byzantine=byzantine, select=select)):
        params = after(strategy, batch_of(changes), start)["item"]
        assert ((low <= params) & (params <= high)).all(), strategy
    assert (after(FedAvg(), batch_of(changes), start)["item"] > high).all()


def test_liars_that_agree_do_not_win() -> None:
    """f clients send one and the same vector: each has only f - 1 neighbours at distance 0."""
    rows: list[dict[int, Sequence[float]]] = [{0: [x / 10]} for x in range(8)]
    rows += [{0: [50.0]}] * 3
    value = after(krum(byzantine=3), ragged(rows), ZERO)["item"][0, 0]
    assert 0.0 <= value <= 0.7
