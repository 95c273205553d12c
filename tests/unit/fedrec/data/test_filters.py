import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.data import Synthetic
from fedrec.data.ids import index_ids
from fedrec.data.split import check_interactions, filter_interactions, k_core, keep_one, select
from fedrec.errors import DataError
from fedrec.types import IntArray, Interactions, TextArray

pairs = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=60)


def indexed(ids: list[int]) -> tuple[IntArray, TextArray]:
    table, codes = np.unique(np.array(ids), return_inverse=True)
    return index_ids(codes.astype(np.int64), table.astype(np.str_).tolist())


def interactions(
    rows: list[tuple[int, int]],
    ratings: list[float] | None = None,
    times: list[float] | None = None,
) -> Interactions:
    users, user_ids = indexed([user for user, _ in rows])
    items, item_ids = indexed([item for _, item in rows])
    return Interactions(
        users=users,
        items=items,
        ratings=None if ratings is None else np.array(ratings, np.float64),
        timestamps=None if times is None else np.array(times, np.float64),
        user_ids=user_ids,
        item_ids=item_ids,
        user_columns={"twin": user_ids},
        item_columns={"title": np.array([f"film {each}" for each in item_ids])},
        name="toy",
    )


@given(pairs, st.integers(1, 4))
def test_k_core_equals_removing_one_at_a_time(rows: list[tuple[int, int]], k: int) -> None:
    users, items = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    left = set(range(len(rows)))
    while True:
        bad = [
            row
            for row in sorted(left, reverse=True)
            if sum(users[o] == users[row] for o in left) < k
            or sum(items[o] == items[row] for o in left) < k
        ]
        if not bad:
            break
        left.remove(bad[0])
    assert np.flatnonzero(k_core(users, items, k)).tolist() == sorted(left)


@given(pairs, st.sampled_from(["first", "last"]), st.data())
def test_of_duplicates_one_stays_and_it_is_the_extreme_in_time(
    rows: list[tuple[int, int]], which: Any, data: st.DataObject
) -> None:
    times = [float(data.draw(st.integers(0, 3))) for _ in rows]
    keep = keep_one(interactions(rows, times=times), which, [])
    best: dict[tuple[int, int], int] = {}
    for at, row in enumerate(rows):
        old = best.get(row)
        wins = old is None or (
            times[at] < times[old] if which == "first" else times[at] >= times[old]
        )
        best[row] = at if wins else best[row]
    assert np.flatnonzero(keep).tolist() == sorted(best.values())


@given(pairs, st.data())
def test_select_keeps_raw_ids_and_drops_what_is_unused(
    rows: list[tuple[int, int]], data: st.DataObject
) -> None:
    keep = np.array([data.draw(st.booleans()) for _ in rows])
    some = select(interactions(rows, times=[float(at) for at in range(len(rows))]), keep)
    selected = [row for row, stays in zip(rows, keep, strict=True) if stays]
    raw = zip(some.user_ids[some.users], some.item_ids[some.items], strict=True)
    assert [(int(user), int(item)) for user, item in raw] == selected
    assert some.user_ids.tolist() == [str(u) for u in sorted({user for user, _ in selected})]
    assert some.user_columns["twin"].tolist() == some.user_ids.tolist()
    assert some.item_columns["title"].tolist() == [f"film {each}" for each in some.item_ids]


def test_duplicates_go_before_the_threshold_and_that_before_the_k_core() -> None:
    rows = [(1, 1), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1)]
    data = interactions(rows, ratings=[5, 1, 5, 5, 5, 5], times=[0, 1, 2, 3, 4, 5])
    problems: list[str] = []
    filtered = filter_interactions(data, Synthetic(duplicates="last", threshold=3), problems)
    # The last of the duplicates is below the threshold, so the pair is gone.
    assert len(filtered) == 4
    assert problems == []
    filter_interactions(data, Synthetic(duplicates="last", threshold=3, k_core=2), problems)
    assert "k_core: 2 leaves nothing" in problems[0]
    # The other order would have kept this much.
    assert k_core(data.users, data.items, 2).sum() == 5


@pytest.mark.parametrize(
    ("options", "ratings", "message"),
    [
        ({}, [1, 1, 1], "user '4' has item '9' more than once .*set data.duplicates"),
        ({"duplicates": "first", "threshold": 3}, None, "data.threshold is 3, but toy has no rat"),
        ({"duplicates": "first", "threshold": 3}, [1, 1, 2], "no rating of toy is 3 .* is 2"),
        ({"duplicates": "first", "k_core": 5}, [1, 1, 2], "data.k_core: 5 leaves nothing"),
    ],
)
def test_filters_that_cannot_be_applied(
    options: dict[str, Any], ratings: list[float] | None, message: str
) -> None:
    data = interactions([(4, 9), (4, 9), (5, 9)], ratings)
    problems: list[str] = []
    filter_interactions(data, Synthetic(**options), problems)
    assert [re.search(message, problem) is not None for problem in problems] == [True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": np.array([0, 7])}, r"item index .7. is out of range; there are 2 items"),
        ({"users": np.array([-1, 0])}, r"user index .-1. is out of range"),
        ({"users": np.array([0])}, "2 items for 1 interactions"),
        ({"ratings": np.array([1.0, np.inf])}, r"rating .inf. of row .2. is not finite"),
        ({"timestamps": np.array([np.nan, 1.0])}, r"timestamp .nan. of row .1."),
        ({"ratings": np.array([1.0])}, "1 ratings for 2"),
        ({"user_ids": np.array(["1", "1"])}, "two users have the same raw id"),
        ({"item_columns": {"title": np.array(["x"])}}, "column 'title' has 1 cells, expected 2"),
        ({"users": np.array([], int), "items": np.array([], int)}, "no interactions"),
    ],
)
def test_a_data_set_that_breaks_its_promise_is_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        check_interactions(replace(interactions([(1, 3), (2, 4)]), **change))


def test_short_index_types_do_not_overflow() -> None:
    n = 70_000
    data = Interactions(
        users=np.array([0, 2**32 // n], np.int32),  # the pairs' numbers differ by 2**32
        items=np.array([0, 2**32 % n], np.int32),
        ratings=None,
        timestamps=None,
        user_ids=np.arange(n).astype(str),
        item_ids=np.arange(n).astype(str),
    )
    problems: list[str] = []
    assert len(filter_interactions(data, Synthetic(), problems)) == 2
    assert problems == []
