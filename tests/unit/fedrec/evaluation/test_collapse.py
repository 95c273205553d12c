"""Both measures of a planted spectrum are what their formulas say, and collapse is seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.evaluation.collapse import Spectrum, learned_spectrum
from fedrec.types import FloatArray


def planted(n_items: int, singular_values: FloatArray, seed: int = 0) -> FloatArray:
    """A table with these singular values and rows of mean zero."""
    rng = np.random.default_rng(seed)
    d = len(singular_values)
    left = rng.normal(size=(n_items, d))
    left = np.linalg.qr(left - left.mean(axis=0))[0]
    right = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return np.asarray(left * singular_values @ right.T)


@settings(deadline=None, max_examples=25)
@given(d=st.integers(1, 12), scale=st.floats(1e-6, 1e6), seed=st.integers(0, 99))
def test_equal_variance_in_all_directions_is_d(d: int, scale: float, seed: int) -> None:
    learned_values = learned_spectrum(planted(40, np.full(d, scale), seed))
    assert learned_values.participation_ratio == pytest.approx(d)
    assert learned_values.effective_rank == pytest.approx(d)


@settings(deadline=None, max_examples=25)
@given(d=st.integers(2, 12), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_one_direction_is_one_though_the_initial_values_are_full(
    d: int, scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    initial = rng.normal(size=(200, d))
    learned = scale * np.outer(rng.normal(size=200), rng.normal(size=d))
    learned_values = learned_spectrum(initial + learned, initial)
    assert learned_values.participation_ratio == pytest.approx(1.0, abs=1e-6)
    assert learned_values.effective_rank == pytest.approx(1.0, abs=1e-2)
    if scale < 0.05:
        assert learned_spectrum(initial + learned).participation_ratio > d / 2


@settings(deadline=None, max_examples=25)
@given(values=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_both_follow_their_formulas(values: list[float], seed: int) -> None:
    spectrum = np.sort(np.array(values))[::-1]
    learned_values = learned_spectrum(planted(30, spectrum, seed))
    np.testing.assert_allclose(learned_values.singular_values, spectrum, rtol=1e-6, atol=1e-9)
    shares = spectrum / spectrum.sum()
    assert learned_values.effective_rank == pytest.approx(float(np.prod(shares**-shares)), rel=1e-5)
    variances = spectrum**2
    expected = variances.sum() ** 2 / (variances**2).sum()
    assert learned_values.participation_ratio == pytest.approx(float(expected), rel=1e-5)
    assert 1 - 1e-9 <= learned_values.participation_ratio <= learned_values.effective_rank + 1e-6


def test_a_long_weak_tail_counts_in_the_effective_rank_alone() -> None:
    learned_values = Spectrum(np.array([10.0] + [1.0] * 127))
    assert learned_values.effective_rank > 60
    assert learned_values.participation_ratio < 5.5


def test_a_shift_of_all_rows_changes_nothing() -> None:
    table = planted(50, np.array([3.0, 2.0, 1.0]))
    shifted = learned_spectrum(table + np.array([5.0, -7.0, 1.0]))
    np.testing.assert_allclose(shifted.singular_values, [3.0, 2.0, 1.0])


@pytest.mark.parametrize("table", [np.zeros((5, 3)), np.ones((5, 3)), np.zeros((0, 3))])
def test_equal_rows_have_no_direction(table: FloatArray) -> None:
    learned_values = learned_spectrum(table)
    assert learned_values.participation_ratio == 0.0
    assert learned_values.effective_rank == 0.0


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 2\) and \(3, 2\)"):
        learned_spectrum(np.zeros((4, 2)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="expected a table"):
        learned_spectrum(np.zeros(4))
