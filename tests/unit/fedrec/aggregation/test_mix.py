"""Mixtures are exact: their bits are those of whole numbers, however they are formed."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedrec.aggregation.mix import clients_alike, packed, rows_of, unpacked, values_of
from fedrec.aggregation.update import Down, Mix
from fedrec.types import FloatArray

WEIGHTS = st.one_of(
    st.sampled_from([0.0, 0.0, 1.0]), st.floats(-2, 2, width=32, allow_subnormal=False)
)


@st.composite
def mixes(draw: st.DrawFn) -> Mix:
    k, items, width, c = (draw(st.integers(1, most)) for most in (6, 4, 3, 5))
    size = draw(st.sampled_from([1e-30, 1e-3, 1.0, 1e6]))
    bases = draw(arrays(np.float32, (k, items, width), elements=st.floats(-1, 1, width=32)))
    weights = draw(arrays(np.float32, (c, k), elements=WEIGHTS))
    return Mix(np.float32(size) * bases, weights)


def exponent(value: Fraction) -> int:
    """The least whole number e with value < 2**e; 0 for 0."""
    e = 0
    while value and value >= Fraction(2) ** e:
        e += 1
    while value and value < Fraction(2) ** (e - 1):
        e -= 1
    return e


def by_whole_numbers(mix: Mix) -> FloatArray:
    """The values of all clients, from numbers of Python alone."""
    bases = mix.bases.reshape(len(mix.bases), -1)
    largest = max(abs(Fraction(float(b))) for b in bases.ravel())
    base_scale = Fraction(2) ** (30 - exponent(largest))
    values = np.empty((len(mix.weights), bases.shape[1]), np.float32)
    for client, of_client in enumerate(mix.weights):
        if np.count_nonzero(of_client) == 1 and of_client.max() == 1:
            values[client] = bases[of_client.argmax()]
            continue
        weights = [Fraction(float(w)) for w in of_client]
        total = float(np.abs(of_client.astype(np.float64)).sum())
        scale = Fraction(2) ** (21 - exponent(Fraction(total)))
        whole = [round(weight * scale) for weight in weights]
        unit = total / max(sum(map(abs, whole)), 1) / float(base_scale)
        for column in range(bases.shape[1]):
            of_bases = [round(Fraction(float(b)) * base_scale) for b in bases[:, column]]
            products = zip(whole, of_bases, strict=True)
            values[client, column] = np.float32(sum(w * b for w, b in products) * unit)
    return values.reshape(len(mix.weights), *mix.bases.shape[1:])


@settings(max_examples=150, deadline=None)
@given(mix=mixes())
def test_values_are_those_of_whole_numbers(mix: Mix) -> None:
    everybody = np.arange(len(mix.weights))
    assert values_of(mix, everybody).tobytes() == by_whole_numbers(mix).tobytes()


@settings(max_examples=100, deadline=None)
@given(mix=mixes(), data=st.data())
def test_any_rows_in_any_order_are_those_of_the_values(mix: Mix, data: st.DataObject) -> None:
    values = values_of(mix, np.arange(len(mix.weights)))
    shape = st.tuples(st.integers(0, len(mix.weights) - 1), st.integers(0, mix.bases.shape[1] - 1))
    pairs = np.array(data.draw(st.lists(shape, max_size=12)), np.int64).reshape(-1, 2)
    rows = rows_of(mix, pairs[:, 0], pairs[:, 1])
    assert rows.tobytes() == values[pairs[:, 0], pairs[:, 1]].tobytes()
    some = np.unique(pairs[:, 0])[::-1]
    assert values_of(mix, some).tobytes() == values[some].tobytes()


@settings(max_examples=100, deadline=None)
@given(mix=mixes(), data=st.data())
def test_base_values_that_nobody_uses_and_their_order_change_no_bit(
    mix: Mix, data: st.DataObject
) -> None:
    """With many of them, a compiled loop takes the place of the product of matrices."""
    k, more = len(mix.bases), data.draw(st.sampled_from([0, 100]))
    at = np.array(data.draw(st.permutations(range(k + more))))
    bases = np.concatenate([mix.bases, np.zeros((more, *mix.bases.shape[1:]), np.float32)])
    weights = np.pad(mix.weights, ((0, 0), (0, more)))
    other = Mix(bases[at], weights[:, at])
    # Sums of float64 weights depend on their order, by less than a float32 can show but at ties.
    whole = Mix(mix.bases, np.rint(mix.weights * 64) / np.float32(64))
    other = Mix(other.bases, np.rint(other.weights * 64) / np.float32(64))
    everybody = np.arange(len(mix.weights))
    assert values_of(whole, everybody).tobytes() == values_of(other, everybody).tobytes()
    items = np.zeros(len(everybody), np.int64)
    assert rows_of(whole, everybody, items).tobytes() == rows_of(other, everybody, items).tobytes()


@pytest.mark.parametrize("k", [3, 943, 20_000])
def test_a_mean_of_equal_values_is_that_value(k: int) -> None:
    value = np.linspace(-1, 1, 10, dtype=np.float32).reshape(5, 2)
    mix = Mix(np.broadcast_to(value, (k, 5, 2)), np.full((1, k), 1 / k, np.float32))
    np.testing.assert_allclose(values_of(mix, np.array([0]))[0], value, rtol=2e-7, atol=1e-9)


@pytest.mark.parametrize("shape", [(), (3,), (300,), (7, 40, 2)])
@pytest.mark.parametrize("spread", [1, 100])
def test_a_parameter_may_have_any_shape(shape: tuple[int, ...], spread: int) -> None:
    rng = np.random.default_rng(0)
    bases = rng.standard_normal((2 * spread, *shape)).astype(np.float32)
    weights = np.zeros((4, 2 * spread), np.float32)
    weights[:, ::spread] = rng.random((4, 2))
    expected = np.tensordot(weights.astype(np.float64), bases, 1)
    np.testing.assert_allclose(values_of(Mix(bases, weights), np.arange(4)), expected, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(mix=mixes(), more=mixes())
def test_clients_alike_are_all_clients_each_with_its_values(mix: Mix, more: Mix) -> None:
    n = min(len(mix.weights), len(more.weights))
    down = Down({"c": np.array(1, np.float32)}, {"a": mix, "b": more}).take(np.arange(n))
    seen: list[int] = []
    for clients, params in clients_alike(down, n):
        seen += clients.tolist()
        for name, own in down.own.items():
            expected = values_of(own, clients)
            assert all(np.array_equal(params[name], value) for value in expected)
        assert params["c"] == 1
    assert sorted(seen) == list(range(n))
    again: Any = unpacked(packed(down)).own
    assert all(again[name].bases.tobytes() == down.own[name].bases.tobytes() for name in "ab")
