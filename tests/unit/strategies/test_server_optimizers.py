"""Server optimizers against their formulas and torch's; moments of rows that nobody touched."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.testing.strategies import contracts_of_part
from fedrec.types import FloatArray, IntArray, Params
from strategies.server_optimizers import SERVER_OPTIMIZERS
from strategies.server_optimizers.adagrad import Adagrad
from strategies.server_optimizers.adam import Adam
from strategies.server_optimizers.base import ServerOptimizer
from strategies.server_optimizers.sgd import SGD
from strategies.server_optimizers.yogi import Yogi

N, D = 5, 3
START: Params = {
    "item": np.ones((N, D), np.float32),
    "bias": np.linspace(-1, 1, N).astype(np.float32),
    "head": np.zeros(D, np.float32),
    "constant": np.array(0.5, np.float32),
}
TABLES = ("item", "bias")
Round = tuple[Params, IntArray]
"""The joint change, 0 where nobody touched a row, and the rows that somebody touched."""


@st.composite
def rounds(draw: st.DrawFn, most: int = 5) -> list[Round]:
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    rows = st.sets(st.integers(0, N - 1), min_size=1).map(sorted)
    drawn: list[Round] = []
    for _ in range(draw(st.integers(1, most))):
        touched = np.array(draw(rows), np.int64)
        change = {n: np.asarray(rng.standard_normal(v.shape)) for n, v in START.items()}
        for name in TABLES:
            change[name][np.setdiff1d(np.arange(N), touched)] = 0
        drawn.append((change, touched))
    return drawn


@st.composite
def optimizers(draw: st.DrawFn, moments: str) -> ServerOptimizer:
    name = draw(st.sampled_from(sorted(SERVER_OPTIMIZERS)))
    options: dict[str, Any] = {"lr": draw(st.sampled_from([0.1, 1.0])), "moments": moments}
    if name == "sgd":
        options["momentum"] = draw(st.sampled_from([0.0, 0.9]))
    return SERVER_OPTIMIZERS[name].model_validate(options)


def run(optimizer: ServerOptimizer, history: list[Round], start: Params = START) -> Params:
    state, params = optimizer.init(start), start
    for change, touched in history:
        of_tables = {name: touched for name in TABLES if name in start}
        state, params = optimizer.step(state, params, change, of_tables)
    return params


def torchs(make: Any, history: list[Round]) -> Mapping[str, FloatArray]:
    """What an optimizer of torch makes of the changes, which point down the loss."""
    params = {n: torch.nn.Parameter(torch.tensor(np.float64(v))) for n, v in START.items()}
    optimizer = make([*params.values()])
    for change, _ in history:
        for name, value in params.items():
            value.grad = -torch.tensor(change[name])
        optimizer.step()
    return {name: value.detach().numpy() for name, value in params.items()}


@settings(max_examples=40, deadline=None)
@given(rounds())
def test_adam_is_the_formula(history: list[Round]) -> None:
    adam = Adam(lr=0.1, beta1=0.8, beta2=0.95, tau=0.01)
    trained = run(adam, history)
    for name, value in START.items():
        x: FloatArray = value.astype(np.float64)
        first = second = np.zeros(value.shape)
        for change, _ in history:
            first = 0.8 * first + 0.2 * change[name]
            second = 0.95 * second + 0.05 * change[name] ** 2
            x = x + 0.1 * first / (np.sqrt(second) + 0.01)
        np.testing.assert_allclose(trained[name], x, rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(rounds())
def test_with_correction_it_is_torchs_adam(history: list[Round]) -> None:
    adam = Adam(lr=0.1, beta1=0.9, beta2=0.99, tau=1e-3, bias_correction=True)
    expected = torchs(lambda p: torch.optim.Adam(p, 0.1, (0.9, 0.99), 1e-3), history)
    for name, value in run(adam, history).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(rounds())
def test_yogi_is_the_formula(history: list[Round]) -> None:
    yogi = Yogi(lr=0.1, beta1=0.8, beta2=0.95, tau=0.01)
    trained = run(yogi, history)
    for name, value in START.items():
        first, second, x = *np.zeros((2, *value.shape)), np.float64(value)
        for change, _ in history:
            square = change[name] ** 2
            first = 0.8 * first + 0.2 * change[name]
            second = second - 0.05 * square * np.sign(second - square)
            x = x + 0.1 * first / (np.sqrt(second) + 0.01)
        np.testing.assert_allclose(trained[name], x, rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(rounds())
def test_adagrad_is_torchs(history: list[Round]) -> None:
    expected = torchs(lambda p: torch.optim.Adagrad(p, 0.1, eps=0.01), history)
    for name, value in run(Adagrad(lr=0.1, tau=0.01), history).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(history=rounds(), momentum=st.sampled_from([0.0, 0.5, 0.9]))
def test_sgd_is_torchs(history: list[Round], momentum: float) -> None:
    expected = torchs(lambda p: torch.optim.SGD(p, 0.3, momentum), history)
    for name, value in run(SGD(lr=0.3, momentum=momentum), history).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)


def test_the_first_step_of_adam_is_nearly_the_sign() -> None:
    change = {name: np.asarray(np.full(v.shape, -7.0)) for name, v in START.items()}
    adam = Adam(lr=0.1, tau=1e-9, bias_correction=True)
    for name, value in run(adam, [(change, np.arange(N))]).items():
        np.testing.assert_allclose(value, START[name] - 0.1, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), history=rounds())
def test_lazy_rows_are_those_of_the_rounds_that_touched_them(
    data: st.DataObject, history: list[Round]
) -> None:
    """A row moves as in a run of its own, of the rounds in which somebody touched it."""
    optimizer = data.draw(optimizers(moments="lazy"))
    together = run(optimizer, history)
    for item in range(N):
        of_item: list[Round] = [
            ({n: change[n][[item]] for n in TABLES}, np.zeros(1, np.int64))
            for change, touched in history
            if item in touched
        ]
        alone = run(optimizer, of_item, {n: START[n][[item]] for n in TABLES})
        for name in TABLES:
            np.testing.assert_array_equal(together[name][item], alone[name][0])


@settings(max_examples=30, deadline=None)
@given(data=st.data(), history=rounds())
def test_where_all_rows_are_touched_lazy_is_dense(
    data: st.DataObject, history: list[Round]
) -> None:
    lazy = data.draw(optimizers(moments="lazy"))
    dense = lazy.model_copy(update={"moments": "dense"})
    everything = [(change, np.arange(N)) for change, _ in history]
    one, other = run(lazy, everything), run(dense, everything)
    for name in START:
        np.testing.assert_array_equal(one[name], other[name])


@settings(max_examples=30, deadline=None)
@given(data=st.data(), history=rounds(3))
def test_without_a_change_nothing_moves_and_no_argument_changes(
    data: st.DataObject, history: list[Round]
) -> None:
    """Before the first change; afterwards moments go on."""
    optimizer = data.draw(optimizers(moments=data.draw(st.sampled_from(["dense", "lazy"]))))
    still = {name: np.zeros(value.shape) for name, value in START.items()}
    state, params = optimizer.init(START), START
    for change, touched in [(still, np.arange(N)), *history]:
        before = {name: value.tobytes() for name, value in (*state.arrays.items(), *params.items())}
        of_tables = dict.fromkeys(TABLES, touched)
        later, after = optimizer.step(state, params, change, of_tables)
        assert before == {n: v.tobytes() for n, v in (*state.arrays.items(), *params.items())}
        if change is still:
            assert all(np.array_equal(after[n], START[n]) for n in START)
        assert all(value.dtype == np.float32 for value in after.values())
        assert {n: v.shape for n, v in after.items()} == {n: v.shape for n, v in START.items()}
        state, params = later, after


def test_dense_moments_move_a_row_that_nobody_touches() -> None:
    change = {name: np.asarray(np.ones(value.shape)) for name, value in START.items()}
    still = {name: np.zeros(value.shape) for name, value in START.items()}
    for optimizer in (Adam(), SGD(momentum=0.5)):
        once = run(optimizer, [(change, np.arange(N))])
        twice = run(optimizer, [(change, np.arange(N)), (still, np.array([1]))])
        assert (twice["item"] > once["item"]).all()


@pytest.mark.parametrize("name", sorted(SERVER_OPTIMIZERS))
def test_it_keeps_its_contracts(name: str) -> None:
    for contract in contracts_of_part(SERVER_OPTIMIZERS[name]()):
        contract(SERVER_OPTIMIZERS[name]())


@pytest.mark.parametrize("name", sorted(SERVER_OPTIMIZERS))
def test_the_memory_has_the_shape_of_the_parameters(name: str) -> None:
    optimizer = SERVER_OPTIMIZERS[name]()
    arrays = optimizer.init(START).arrays
    for each in optimizer.memory:
        assert {n: arrays[f"{each}/{n}"].shape for n in START} == {
            n: v.shape for n, v in START.items()
        }
