"""Parts of clients: all, once, in order, within the budget."""

from __future__ import annotations

from itertools import zip_longest

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedrec.training.parts import parts
from fedrec.types import offsets_of


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 30))
def test_parts_are_all_clients_in_order_within_the_budget(rows: list[int], budget: int) -> None:
    cut = parts(offsets_of(np.array(rows, np.int64)), budget)
    assert [at for part in cut for at in range(part.start, part.stop)] == list(range(len(rows)))
    for part, after in zip_longest(cut, cut[1:]):
        needed = sum(rows[part])
        assert part.stop > part.start
        assert needed <= budget or part.stop - part.start == 1
        # No part could have taken the next client too.
        assert after is None or needed + rows[after.start] > budget
