"""Fixed point: near the float sum, and exact about everything else."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.fixed_point import (
    SCALE,
    RowTotals,
    add,
    from_fixed,
    merge_rows,
    segment_sum,
    sum_rows,
    to_fixed,
    total_of,
)
from fedrec.aggregation.update import RowBlock
from fedrec.errors import NumericError
from fedrec.ragged import offsets_of
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
    with pytest.raises(NumericError, match=r"'item' is not finite"):
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


@st.composite
def rows_of_clients(draw: st.DrawFn) -> dict[str, FloatArray]:
    """Rows [n, 3] of some clients, with the items, and a weight for each client."""
    lengths = draw(st.lists(st.integers(0, 6), min_size=1, max_size=8))
    items = [sorted(draw(st.permutations(range(9)))[:n]) for n in lengths]
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    kind = draw(st.sampled_from([np.float32, np.float64]))
    scale = draw(st.sampled_from([1e-9, 1.0, 1e4]))
    return {
        "values": (scale * rng.standard_normal((sum(lengths), 3))).astype(kind),
        "ids": np.array([item for row in items for item in row], np.int64),
        "offsets": offsets_of(np.array(lengths, np.int64)),
        "factor": rng.integers(1, 50, len(lengths)).astype(np.float64),
        "weight": rng.integers(1, 50, len(lengths)).astype(np.float64),
    }


def summed(case: dict[str, FloatArray]) -> RowTotals:
    block = RowBlock(case["offsets"], case["ids"], case["values"])
    return sum_rows(block, case["weight"], "x", case["factor"])


@settings(deadline=None)
@given(case=rows_of_clients())
def test_rows_are_summed_as_python_sums_whole_numbers(case: dict[str, FloatArray]) -> None:
    items, sums, weight = summed(case)
    assert items.tolist() == sorted(set(case["ids"].tolist()))
    owner = np.repeat(np.arange(len(case["weight"])), np.diff(case["offsets"]))
    for place, item in enumerate(items):
        here = np.flatnonzero(case["ids"] == item)
        for column in range(3):
            terms = [
                round(
                    float(np.float64(case["values"][p, column]) * case["factor"][owner[p]]) * 2**32
                )
                for p in here
            ]
            assert int(sums[place, column]) == sum(terms)
        assert int(weight[place]) == sum(int(case["weight"][owner[p]]) << 32 for p in here)


@settings(deadline=None)
@given(case=rows_of_clients())
def test_a_factor_of_one_changes_no_bit(case: dict[str, FloatArray]) -> None:
    block = RowBlock(case["offsets"], case["ids"], case["values"])
    ones = np.ones_like(case["weight"])
    plain, multiplied = (sum_rows(block, ones, "x", factor) for factor in (None, ones))
    assert plain[1].tobytes() == multiplied[1].tobytes()


@settings(deadline=None)
@given(case=rows_of_clients(), cut=st.integers(0, 8))
def test_merged_sums_are_the_sum(case: dict[str, FloatArray], cut: int) -> None:
    n = len(case["weight"])
    sums = []
    for first, last in ((0, min(cut, n)), (min(cut, n), n)):
        at = slice(case["offsets"][first], case["offsets"][last])
        offsets = case["offsets"][first : last + 1] - case["offsets"][first]
        block = RowBlock(offsets, case["ids"][at], case["values"][at])
        sums.append(sum_rows(block, case["weight"][first:last], "x", case["factor"][first:last]))
    for merged in (merge_rows(sums[0], sums[1], "x"), merge_rows(sums[1], sums[0], "x")):
        for part, expected in zip(merged, summed(case), strict=True):
            assert part.tobytes() == expected.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 2.0**29.5])
def test_a_sum_of_rows_names_the_fault(value: float) -> None:
    values = np.ones((6, 2))
    values[:, 1] = value
    block = RowBlock(np.arange(7), np.zeros(6, np.int64), values)
    fault = "overflow" if np.isfinite(value) else "'item' is not finite"
    with pytest.raises(NumericError, match=fault):
        sum_rows(block, np.ones(6), "item")


def test_a_merge_that_overflows_is_an_error() -> None:
    half = (np.array([3]), np.array([[2**62, 0]]), np.array([1 << 32]))
    with pytest.raises(NumericError, match="'item' overflows"):
        merge_rows(half, half, "item")
    heavy = (np.array([3]), np.array([[1, 0]]), np.array([2**62]))
    with pytest.raises(NumericError, match="'weight' overflows"):
        merge_rows(heavy, heavy, "item")


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6))
def test_a_total_is_exact_or_an_error(numbers: list[int]) -> None:
    array = np.array(numbers, np.int64)
    if -(2**63) <= sum(numbers) < 2**63:
        assert total_of(array, "weight") == sum(numbers)
    else:
        with pytest.raises(NumericError, match="'weight' over the clients overflows"):
            total_of(array, "weight")


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_what_is_summed_is_left_as_it_was(kind: type) -> None:
    values: FloatArray = np.full((4, 2), 0.3, kind)
    segment_sum(values, np.zeros(4, np.int64), 1, "x")
    assert (values == kind(0.3)).all()
