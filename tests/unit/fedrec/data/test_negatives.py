from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.data.negatives import (
    check_pool,
    pool_excluded,
    popularity_negatives,
    uniform_negatives,
)
from fedrec.errors import DataError
from fedrec.ragged import Ragged, offsets_of
from fedrec.types import IntArray, Split


def ragged(rows: list[list[int]]) -> Ragged:
    return Ragged(
        offsets_of(np.array([len(row) for row in rows], np.int64)),
        np.array([value for row in rows for value in row], np.int64),
    )


@st.composite
def pools(draw: st.DrawFn) -> tuple[int, Ragged]:
    n_items = draw(st.integers(1, 12))
    row = st.sets(st.integers(0, n_items - 1), max_size=n_items - 1).map(sorted)
    return n_items, ragged(draw(st.lists(row, min_size=1, max_size=6)))


def every_rank(pool: int) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    """The smallest bits that give each rank: ceil(r * 2**32 / pool)."""
    return np.array([-(-(rank << 32) // pool) for rank in range(pool)], np.uint32)


@given(pools())
def test_uniform_is_a_bijection_from_ranks_to_allowed_items(case: tuple[int, Ragged]) -> None:
    n_items, excluded = case
    bits = [every_rank(n_items - len(excluded.row(user))) for user in range(len(excluded))]
    users = np.repeat(np.arange(len(excluded)), [len(each) for each in bits])
    drawn = uniform_negatives(np.concatenate(bits), users, excluded, n_items)
    for user in range(len(excluded)):
        allowed = sorted(set(range(n_items)) - set(excluded.row(user).tolist()))
        assert drawn[users == user].tolist() == allowed


@given(pools(), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30), st.data())
def test_uniform_never_draws_what_is_excluded(
    case: tuple[int, Ragged], bits: list[int], data: st.DataObject
) -> None:
    n_items, excluded = case
    users = np.array([data.draw(st.integers(0, len(excluded) - 1)) for _ in bits], np.int64)
    drawn = uniform_negatives(np.array(bits, np.uint32), users, excluded, n_items)
    assert ((drawn >= 0) & (drawn < n_items)).all()
    assert not any(item in excluded.row(user) for user, item in zip(users, drawn, strict=True))
    alone = [
        int(uniform_negatives(np.array([b], np.uint32), np.array([u]), excluded, n_items)[0])
        for b, u in zip(bits, users.tolist(), strict=True)
    ]
    assert drawn.tolist() == alone


@given(pools(), st.data())
def test_popularity_hits_each_allowed_item_as_often_as_it_weighs(
    case: tuple[int, Ragged], data: st.DataObject
) -> None:
    n_items, excluded = case
    weights = np.array(data.draw(st.lists(st.integers(0, 5), min_size=n_items, max_size=n_items)))
    for user in range(len(excluded)):
        out = set(excluded.row(user).tolist())
        expected = {i: int(w) for i, w in enumerate(weights.tolist()) if i not in out and w > 0}
        mass = sum(expected.values())
        if mass == 0:
            continue
        bits = np.array([-(-(unit << 64) // mass) for unit in range(mass)], np.uint64)
        drawn = popularity_negatives(bits, np.full(mass, user), excluded, weights)
        assert Counter(drawn.tolist()) == expected


@given(st.integers(0, 2**64 - 1), st.integers(1, 2**32 - 2))
def test_popularity_is_exact_for_large_masses(bits: int, mass: int) -> None:
    cut = (bits * mass >> 64) + 1
    weights = np.array([cut, mass - cut] if cut < mass else [mass, 0], np.int64)
    none = ragged([[]])
    drawn = popularity_negatives(np.array([bits], np.uint64), np.array([0]), none, weights)
    assert drawn.tolist() == [0]
    if cut > 1:
        earlier = np.array([cut - 1, mass - cut + 1], np.int64)
        assert popularity_negatives(
            np.array([bits], np.uint64), np.array([0]), none, earlier
        ).tolist() == [1]


def test_a_user_without_allowed_items_is_named() -> None:
    full = ragged([[0], [0, 1, 2]])
    users = np.array([0, 1])
    with pytest.raises(DataError, match="user row 1: all items are excluded"):
        uniform_negatives(np.zeros(2, np.uint32), users, full, 3)
    with pytest.raises(DataError, match="user row 1: all items are excluded"):
        popularity_negatives(np.zeros(2, np.uint64), users, full, np.ones(3, np.int64))


def split_of_rows(train: list[int], valid: list[int], test: list[int], n_items: int) -> Split:
    return Split(
        n_items=n_items,
        train=ragged([train]),
        valid=ragged([valid]),
        test=ragged([test]),
        clients=ragged([[0]]),
        timestamps=None,
        ratings=None,
        user_ids=np.array(["ann"]),
        item_ids=np.arange(n_items).astype(np.str_),
    )


def all_draws(excluded: Ragged, n_items: int) -> IntArray:
    bits = every_rank(n_items - len(excluded.values))
    return uniform_negatives(bits, np.zeros(len(bits), np.int64), excluded, n_items)


def test_held_out_items_are_drawn_under_clean_and_never_under_legacy() -> None:
    split = split_of_rows([1, 4], [2], [0], 6)
    assert all_draws(pool_excluded(split, "clean"), 6).tolist() == [0, 2, 3, 5]
    assert all_draws(pool_excluded(split, "legacy"), 6).tolist() == [3, 5]
    assert pool_excluded(split.shard(np.array([0])), "legacy").values.tolist() == [0, 1, 2, 4]


def test_a_split_whose_user_has_everything_is_refused_before_training() -> None:
    split = split_of_rows([1, 2], [0], [3], 4)
    check_pool(split, "clean")
    with pytest.raises(DataError, match="user 'ann' has all 4 items"):
        check_pool(split, "legacy")
