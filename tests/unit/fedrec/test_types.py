"""Ragged rows: whichever are taken, they are those that lie there."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedrec.ragged import Ragged, offsets_of

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=8)


def ragged(rows: list[list[int]]) -> Ragged:
    values = np.array([value for row in rows for value in row], np.int64)
    return Ragged(offsets_of(np.array([len(row) for row in rows])), values)


@given(ROWS, st.data())
def test_taken_rows_are_the_rows(rows: list[list[int]], data: st.DataObject) -> None:
    whole, n = ragged(rows), len(rows)
    first = data.draw(st.integers(0, n))
    following = st.integers(first, n).map(lambda end: list(range(first, end)))
    any_rows = st.lists(st.integers(0, n - 1), max_size=10)
    chosen = data.draw(st.one_of(following, any_rows))
    at = np.array(chosen, np.int64)
    taken = whole.take(at)
    assert [taken.row(i).tolist() for i in range(len(taken))] == [rows[i] for i in chosen]
    assert whole.values[whole.positions(at)].tolist() == taken.values.tolist()
    assert taken.offsets[0] == 0 and taken.offsets[-1] == len(taken.values)
    assert taken.lengths.tolist() == [len(rows[i]) for i in chosen]
