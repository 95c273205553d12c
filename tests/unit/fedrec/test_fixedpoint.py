"""Fixed point: near the float sum, and exact about everything else."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import NumericError
from fedrec.fixedpoint import SCALE, add, from_fixed, segment_sum, to_fixed
from fedrec.types import FloatArray

finite = st.floats(-1e6, 1e6, width=32)


@st.composite
def owned(draw: st.DrawFn) -> tuple[FloatArray, np.ndarray, int]:
    """Values [m, 2], owners [m] in [0, n), n."""
    n = draw(st.integers(1, 5))
    rows = draw(st.lists(st.tuples(finite, finite, st.integers(0, n - 1)), max_size=30))
    values = np.array([[a, b] for a, b, _ in rows], np.float32).reshape(-1, 2)
    return values, np.array([owner for *_, owner in rows], np.int64), n


@given(st.lists(finite, max_size=20))
def test_rounding_is_to_the_nearest_step_and_back(values: list[float]) -> None:
    array = np.array(values)
    back = from_fixed(to_fixed(array, "x"))
    assert np.all(np.abs(back - array) <= 2.0 ** -(SCALE + 1))
    assert np.array_equal(from_fixed(to_fixed(back, "x")), back)


@settings(deadline=None)
@given(owned(), st.integers(0, 99))
def test_a_sum_is_the_float_sum_and_knows_no_order(
    case: tuple[FloatArray, np.ndarray, int], seed: int
) -> None:
    values, owners, n = case
    total = segment_sum(values, owners, n, "x")
    for owner in range(n):
        for column in range(2):
            exact = math.fsum(values[owners == owner, column].tolist())
            assert abs(from_fixed(total[owner, column]) - exact) <= len(values) * 2.0**-SCALE
    order = np.random.default_rng(seed).permutation(len(values))
    assert np.array_equal(segment_sum(values[order], owners[order], n, "x"), total)


@settings(deadline=None)
@given(owned(), st.integers(0, 30))
def test_sums_of_parts_are_the_sum(case: tuple[FloatArray, np.ndarray, int], cut: int) -> None:
    values, owners, n = case
    first, second = (
        segment_sum(values[part], owners[part], n, "x") for part in (slice(cut), slice(cut, None))
    )
    assert np.array_equal(add(first, second, "x"), segment_sum(values, owners, n, "x"))


def test_slices_of_a_long_array_are_one_sum() -> None:
    values = np.ones((10_000, 1), np.float32)
    owners = np.arange(10_000) % 3
    assert from_fixed(segment_sum(values, owners, 3, "x"))[:, 0].tolist() == [3334, 3333, 3333]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(value: float) -> None:
    array = np.array([1.0, value])
    with pytest.raises(NumericError, match=r"'item' is not finite; lower train\.item_lr"):
        to_fixed(array, "item")
    with pytest.raises(NumericError, match="'item' is not finite"):
        segment_sum(array, np.zeros(2, np.int64), 1, "item")


def test_overflow_is_an_error_and_never_wraps() -> None:
    large = np.array([2.0**29.5])
    with pytest.raises(NumericError, match="overflows"):
        to_fixed(np.array([2.0**30]), "item")
    fixed = to_fixed(large, "item")
    with pytest.raises(NumericError, match="'item' overflows"):
        add(add(fixed, fixed, "item"), add(fixed, fixed, "item"), "item")
    many = np.full((3000, 1), 2.0**20)
    with pytest.raises(NumericError, match=r"may overflow .*3000 terms"):
        segment_sum(many, np.zeros(3000, np.int64), 1, "item")


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_adding_is_exact_or_an_error(a: int, b: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if -(2**63) <= a + b < 2**63:
            assert int(add(np.array(a), np.array(b), "x")) == a + b
        else:
            with pytest.raises(NumericError):
                add(np.array(a), np.array(b), "x")


def test_nothing_sums_to_nothing() -> None:
    assert segment_sum(np.zeros((0, 3), np.float32), np.zeros(0, np.int64), 2, "x").shape == (2, 3)
