"""Cohorts: the size asked for, uniform, and a function of seed and round alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedrec.config.rounds import Rounds
from fedrec.errors import ConfigError
from strategies.selections.uniform import cohort


@given(st.integers(0, 2**63 - 1), st.integers(1, 10**6), st.integers(1, 300), st.data())
def test_distinct_sorted_and_of_that_size(
    seed: int, round: int, n: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, n))
    chosen = cohort(seed, round, n, size)
    assert chosen.dtype == np.int64
    assert len(chosen) == size
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] >= 0
    assert chosen[-1] < n
    assert np.array_equal(chosen, cohort(seed, round, n, size))


@given(st.integers(0, 10**6), st.integers(0, 100), st.integers(2, 100), st.data())
def test_a_larger_cohort_holds_the_smaller(
    seed: int, round: int, n: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, n - 1))
    assert set(cohort(seed, round, n, size)) <= set(cohort(seed, round, n, size + 1))


def test_rounds_and_seeds_draw_anew() -> None:
    first = cohort(0, 1, 1000, 100)
    assert not np.array_equal(first, cohort(0, 2, 1000, 100))
    assert not np.array_equal(first, cohort(1, 1, 1000, 100))


def test_draws_are_part_of_every_result() -> None:
    """Other numbers here mean that every run with a cohort changes."""
    assert cohort(0, 1, 100, 8).tolist() == [45, 48, 49, 60, 76, 79, 89, 95]
    assert cohort(2**62 + 7, 300, 1000, 4).tolist() == [197, 566, 745, 917]


def test_every_client_is_as_likely() -> None:
    counts = np.bincount(np.concatenate([cohort(7, r, 50, 10) for r in range(2000)]), minlength=50)
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize(
    ("fields", "n", "size"),
    [
        ({}, 10, 10),
        ({"cohort_size": 3}, 10, 3),
        ({"cohort_size": 10}, 10, 10),
        ({"cohort_fraction": 0.25}, 10, 2),
        ({"cohort_fraction": 0.001}, 10, 1),
        ({"cohort_fraction": 1.0}, 10, 10),
    ],
)
def test_sizes(fields: dict[str, float], n: int, size: int) -> None:
    assert Rounds.model_validate(fields).clients_of(n) == size


def test_more_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"cohort_size: 11 is more than the 10 clients; lower it"):
        Rounds(cohort_size=11).clients_of(10)
