"""Factors are 1 without staleness, fall with it, and are exact multiples of 2**-31."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.devices.staleness import Staleness

S = np.arange(12)


def test_they_are_the_papers() -> None:
    """xie2020asynchronous, section 5.2, at its a = 0.5 and a = 10, b = 4."""
    step = 2.0**-31
    assert Staleness().factors(S) == pytest.approx((1 + S) ** -0.5, abs=step)
    hinge = [1.0] * 5 + [1 / (10 * (s - 4) + 1) for s in range(5, 12)]
    assert Staleness(name="hinge").factors(S) == pytest.approx(hinge, abs=step)
    assert Staleness(name="constant").factors(S).tolist() == [1.0] * 12


@given(
    name=st.sampled_from(["polynomial", "hinge", "constant"]),
    exponent=st.floats(0, 5),
    slope=st.floats(0.01, 100),
    grace=st.integers(0, 9),
)
def test_later_never_counts_more(name: Any, exponent: float, slope: float, grace: int) -> None:
    staleness = Staleness(name=name, exponent=exponent, slope=slope, grace=grace)
    factors = staleness.factors(S)
    assert factors[0] == 1.0
    assert (np.diff(factors) <= 0).all()
    assert (factors >= 0).all()
    assert np.array_equal(factors * 2**31, np.rint(factors * 2**31))


def test_options_without_effect_are_named() -> None:
    assert Staleness().without_effect(None) == []
    assert Staleness(name="hinge", exponent=1.0).without_effect(None) == [
        "exponent: 1.0 has no effect: it belongs to polynomial"
    ]
    assert Staleness(slope=1.0, grace=1).without_effect(None) == [
        "slope: 1.0 has no effect: it belongs to hinge",
        "grace: 1 has no effect: it belongs to hinge",
    ]
    assert Staleness(exponent=0).without_effect(None) == [
        "exponent: 0 has no effect: it is constant"
    ]
