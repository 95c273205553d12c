"""FedAdam against its formula, and with bias correction against torch's Adam."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.types import FloatArray, RowBlock, UpdateBatch
from strategies import FedAdam

N, D = 5, 3


def batch_of(change: FloatArray, rows: list[int], round: int) -> UpdateBatch:
    """One client that changes some rows of the table, and the whole of a dense parameter."""
    ids = np.array(rows, np.int64)
    block = RowBlock(np.array([0, len(ids)]), ids, change[ids].astype(np.float32))
    dense = {"head": change[:1].astype(np.float32)}
    return UpdateBatch(round, np.zeros(1, np.int64), np.ones(1), {"item": block}, dense)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[FloatArray, list[int]]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    rows = st.sets(st.integers(0, N - 1), min_size=1).map(sorted)
    count = draw(st.integers(1, 5))
    return [(rng.standard_normal((N, D)), draw(rows)) for _ in range(count)]


def run(strategy: FedAdam, history: list[tuple[FloatArray, list[int]]]) -> dict[str, FloatArray]:
    params: dict[str, FloatArray] = {
        "item": np.ones((N, D), np.float32),
        "head": np.zeros(D, np.float32),
    }
    state = strategy.init(params, 8)
    for number, (change, rows) in enumerate(history, 1):
        aggregate = strategy.reduce(batch_of(change, rows, number))
        state, after = strategy.apply(state, params, aggregate)
        params = dict(after)
    return params


def masked(change: FloatArray, rows: list[int]) -> FloatArray:
    """The change that arrives: rows that nobody touched count as 0."""
    full = np.zeros_like(change)
    full[rows] = change.astype(np.float32)[rows]
    return full


@settings(max_examples=40, deadline=None)
@given(histories())
def test_the_formula_without_correction(history: list[tuple[FloatArray, list[int]]]) -> None:
    strategy = FedAdam(server_lr=0.1, beta1=0.8, beta2=0.95, tau=0.01)
    first = second = np.zeros((N, D))
    x = np.ones((N, D))
    for change, rows in history:
        delta = masked(change, rows)
        first = 0.8 * first + 0.2 * delta
        second = 0.95 * second + 0.05 * delta**2
        x = x + 0.1 * first / (np.sqrt(second) + 0.01)
    np.testing.assert_allclose(run(strategy, history)["item"], x, rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(histories())
def test_with_correction_it_is_torchs_adam(history: list[tuple[FloatArray, list[int]]]) -> None:
    tau = 1e-3
    strategy = FedAdam(server_lr=0.1, beta1=0.9, beta2=0.99, tau=tau, bias_correction=True)
    table = torch.nn.Parameter(torch.ones(N, D, dtype=torch.float64))
    head = torch.nn.Parameter(torch.zeros(D, dtype=torch.float64))
    adam = torch.optim.Adam([table, head], lr=0.1, betas=(0.9, 0.99), eps=tau)
    for change, rows in history:
        # A gradient points up the loss, a change down it.
        table.grad = -torch.tensor(masked(change, rows))
        head.grad = -torch.tensor(change[0].astype(np.float32)).double()
        adam.step()
    trained = run(strategy, history)
    np.testing.assert_allclose(trained["item"], table.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(trained["head"], head.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_the_first_step_is_nearly_the_sign() -> None:
    change = np.array([[3.0, -5.0, 0.0]] * N)
    trained = run(FedAdam(server_lr=0.1, tau=1e-9, bias_correction=True), [(change, [0])])
    np.testing.assert_allclose(trained["item"][0], [1.1, 0.9, 1.0], rtol=1e-5)
    assert (trained["item"][1:] == 1).all()


def test_a_row_goes_on_moving_when_nobody_touches_it() -> None:
    change = np.ones((N, D))
    once = run(FedAdam(), [(change, [0])])
    twice = run(FedAdam(), [(change, [0]), (change, [1])])
    assert (twice["item"][0] > once["item"][0]).all()


def test_the_state_has_the_shape_of_the_parameters() -> None:
    params = {"item": np.ones((N, D), np.float32), "constant": np.array(1.0, np.float32)}
    state = FedAdam().init(params, 8)
    assert {n: v.shape for n, v in state.below("second/").items()} == {
        "item": (N, D),
        "constant": (),
    }


@pytest.mark.parametrize("average", ["per_row", "cohort", "sum"])
def test_the_denominators_agree_for_one_client(average: str) -> None:
    change = np.arange(N * D).reshape(N, D).astype(float)
    trained = run(FedAdam.model_validate({"average": average}), [(change, [0, 2])])
    expected = run(FedAdam(), [(change, [0, 2])])
    assert np.array_equal(trained["item"], expected["item"])
