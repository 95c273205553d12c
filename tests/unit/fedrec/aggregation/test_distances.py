"""Distances between clients: exact for what is alike, the same in any order and with any code."""

import numpy as np
import pytest

from fedrec.aggregation import distances
from fedrec.aggregation.distances import squared_distances
from fedrec.types import FloatArray


@pytest.fixture(params=["numba", "numpy"])
def code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        monkeypatch.setattr(distances, "find_spec", lambda _: None)


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distances_are_those_of_their_definition(dtype: type) -> None:
    rows: FloatArray = np.random.default_rng(0).normal(size=(3, 7, 5)).astype(dtype)
    rows[:, 1] = rows[:, 4] = 1e30  # what an attacker sends leaves the others' distances alone
    rows[:, 2] = rows[:, 3] + np.float32(1e-6)
    squared = squared_distances(rows)
    wide = rows.astype(np.float64)
    expected = ((wide[:, :, None] - wide[:, None]) ** 2).sum(3)
    expected[:, np.arange(7), np.arange(7)] = np.inf
    np.testing.assert_allclose(squared, expected, rtol=1e-14)
    assert (squared[:, 1, 4] == 0).all()
    np.testing.assert_array_equal(squared, squared.transpose(0, 2, 1))
    order = np.random.default_rng(1).permutation(7)
    moved = squared_distances(rows[:, order])
    np.testing.assert_array_equal(moved, squared[:, order][:, :, order])


def test_compiled_code_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(2).normal(size=(2, 40, 33)).astype(np.float32)
    compiled = squared_distances(rows)
    monkeypatch.setattr(distances, "find_spec", lambda _: None)
    np.testing.assert_array_equal(squared_distances(rows), compiled)
