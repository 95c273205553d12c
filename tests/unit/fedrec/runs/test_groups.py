"""Each client is ranked for with the parameters of its own group."""

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedrec.runs.result import by_group, of_group
from fedrec.types import FloatArray, IntArray, Params

PLAIN: Params = {"item": np.array([[7.0]]), "group/of": np.array(1.0)}
MODEL: Params = {
    **{"item": np.array([0.0]), "head": np.array([9.0])},
    **{f"item@{g}": np.array([10.0 * g]) for g in (0, 2, 12)},
    **{f"head@{g}": np.array([10.0 * g + 1]) for g in (0, 2, 12)},
    "group": np.array([2, 0, 12, 2], np.int32),
}


def test_without_groups_all_share_one_set() -> None:
    assert of_group(PLAIN, 0) is PLAIN
    assert of_group(PLAIN, 5) is PLAIN


def test_a_group_has_all_names_with_its_own_values() -> None:
    for group in (0, 2, 12):
        assert {n: float(v[0]) for n, v in of_group(MODEL, group).items()} == {
            "item": 10.0 * group,
            "head": 10.0 * group + 1,
        }


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_every_row_is_answered_in_its_place(rows: list[int]) -> None:
    clients = np.array([3, 1, 1, 0, 2, 3])

    def make(params: Params) -> Callable[[IntArray], FloatArray]:
        def score(at: IntArray) -> FloatArray:
            return np.stack([params["item"][0] + 0.0 * at, at], axis=1)

        return score

    chosen = np.array(rows, np.int64)
    group = MODEL["group"][clients]
    scores = by_group(MODEL, clients, make)(chosen)
    assert scores.tolist() == [[10.0 * group[row], row] for row in rows]
    alone = by_group({"item": np.array([7.0])}, clients, make)(chosen)
    assert alone.tolist() == [[7.0, row] for row in rows]
