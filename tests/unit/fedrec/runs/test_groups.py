"""Each client is ranked for with the values that it received."""

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedrec.aggregation.mix import packed
from fedrec.aggregation.update import Down, Mix
from fedrec.runs.recommend import by_values
from fedrec.types import FloatArray, IntArray, Params

CLIENTS = np.array([3, 1, 1, 0, 2, 3])
"""Of each row."""
SHARED: Params = {"head": np.array([7.0], np.float32)}
ITEMS = Mix(
    np.array([[0.0], [10.0], [40.0]], np.float32),
    np.array([[0, 1, 0], [1, 0, 0], [0.5, 0.25, 0.25], [0, 1, 0]], np.float32),
)


def make(params: Params) -> Callable[[IntArray], FloatArray]:
    def score(rows: IntArray) -> FloatArray:
        numbers = [np.full(len(rows), params[name][0]) for name in ("item", "head")]
        return np.stack([*numbers, rows], axis=1)

    return score


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_every_row_is_answered_in_its_place(rows: list[int]) -> None:
    chosen = np.array(rows, np.int64)
    own = by_values(packed(Down(SHARED, {"item": ITEMS})), CLIENTS, make)(chosen)
    expected = np.array([10.0, 0.0, 12.5, 10.0])[CLIENTS[chosen]]
    assert own.tolist() == [[value, 7.0, row] for value, row in zip(expected, rows, strict=True)]
    alike = by_values({**SHARED, "item": np.array([1.0])}, CLIENTS, make)(chosen)
    assert alike.tolist() == [[1.0, 7.0, row] for row in rows]
