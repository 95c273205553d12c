"""Ranks and top lists equal a slow loop, in torch and in machine code."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import ConfigError, NumericError
from fedrec.evaluation.ranking import (
    PARTS,
    Part,
    Placed,
    Scores,
    legacy_candidates,
    mask_of,
    place_by_definition,
    ranks_of,
    top_k,
)
from fedrec.personalization.base import View
from fedrec.types import FloatArray, IntArray, Shard
from tests.rankings import World, ragged, worlds


def slow_ranks(scores: FloatArray, relevant: list[int], competing: list[int]) -> list[int]:
    """The definition, of each relevant item: every tie is lost to the others that compete."""
    by_score = sorted(relevant, key=lambda item: -scores[item])
    return [
        sum(scores[j] >= scores[item] for j in competing) + by_score.index(item) + 1
        for item in relevant
    ]


@given(world=worlds, part=st.sampled_from(PARTS), as_tensor=st.booleans())
def test_ranks_equal_the_slow_loop(world: World, part: Part, as_tensor: bool) -> None:
    excluded = mask_of(part, world.train, world.valid)
    relevant = world.parts[part]
    scores = torch.from_numpy(world.scores) if as_tensor else world.scores
    ranks = ranks_of(scores, relevant, excluded)
    np.testing.assert_array_equal(ranks.offsets, relevant.offsets)
    for user in range(len(relevant)):
        gone = {*excluded.row(user).tolist(), *relevant.row(user).tolist()}
        competing = [item for item in range(world.n_items) if item not in gone]
        expected = slow_ranks(world.scores[user], relevant.row(user).tolist(), competing)
        assert ranks.row(user).tolist() == expected


@given(world=worlds, seed=st.integers(0, 99))
def test_only_candidates_compete(world: World, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, world.n_items, 5).tolist() for _ in range(len(world.test))]
    excluded = mask_of("test", world.train, world.valid)
    ranks = ranks_of(world.scores, world.test, excluded, ragged(rows))
    for user, row in enumerate(rows):
        gone = {*excluded.row(user).tolist(), *world.test.row(user).tolist()}
        expected = slow_ranks(
            world.scores[user], world.test.row(user).tolist(), sorted(set(row) - gone)
        )
        assert ranks.row(user).tolist() == expected


@given(world=worlds)
def test_all_items_as_candidates_is_the_full_ranking(world: World) -> None:
    excluded = mask_of("test", world.train, world.valid)
    everything = ragged([list(range(world.n_items))] * len(world.test))
    full = ranks_of(world.scores, world.test, excluded)
    np.testing.assert_array_equal(
        ranks_of(world.scores, world.test, excluded, everything).values, full.values
    )


def test_constant_scores_give_the_worst_rank() -> None:
    scores = np.zeros((2, 10), np.float32)
    ranks = ranks_of(scores, ragged([[0], [3, 4]]), ragged([[1, 2], []]))
    assert ranks.row(0).tolist() == [8]
    assert ranks.row(1).tolist() == [9, 10]


@given(world=worlds)
def test_a_relevant_item_is_ranked_even_if_excluded(world: World) -> None:
    everything = ragged([list(range(world.n_items))] * len(world.test))
    ranks = ranks_of(world.scores, world.test, everything)
    for user in range(len(world.test)):
        assert sorted(ranks.row(user)) == list(range(1, len(world.test.row(user)) + 1))


@given(world=worlds, k=st.integers(1, 30))
def test_top_k_equals_the_slow_sort(world: World, k: int) -> None:
    excluded = mask_of("test", world.train, world.valid)
    top = top_k(world.scores, excluded, k)
    assert top.shape == (len(world.train), k)
    assert top.dtype == np.int64
    for user in range(len(world.train)):
        gone = set(excluded.row(user).tolist())
        left = [item for item in range(world.n_items) if item not in gone]
        best = sorted(left, key=lambda item: (-world.scores[user, item], item))[:k]
        assert top[user].tolist() == best + [-1] * (k - len(best))


@given(world=worlds, k=st.integers(1, 10))
def test_without_ties_the_list_holds_whom_the_ranks_say(world: World, k: int) -> None:
    rng = np.random.default_rng(k)
    scores = rng.permuted(np.tile(np.arange(world.n_items), (len(world.test), 1)), axis=1)
    excluded = mask_of("test", world.train, world.valid)
    ranks = ranks_of(scores.astype(np.float32), world.test, excluded)
    top = top_k(scores.astype(np.float32), excluded, k)
    for user in range(len(world.test)):
        hits = len(set(top[user].tolist()) & set(world.test.row(user).tolist()))
        assert hits == int((ranks.row(user) <= k).sum())


def test_scores_are_not_changed() -> None:
    world = World(1, 5, 9, 5)
    before = world.scores.copy()
    world.scores.setflags(write=False)
    ranks_of(world.scores, world.test, world.train)
    top_k(world.scores, world.train, 3)
    np.testing.assert_array_equal(world.scores, before)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_nan_is_an_error_that_says_how_many(as_tensor: bool) -> None:
    values = np.zeros((3, 4), np.float32)
    values[1, 2] = np.nan
    scores = torch.from_numpy(values) if as_tensor else values
    none = ragged([[], [], []])
    with pytest.raises(NumericError, match="1 of 3 users are NaN"):
        ranks_of(scores, none, none)
    with pytest.raises(NumericError, match="1 of 3 users are NaN"):
        top_k(scores, none, 2)


def test_the_top_list_tells_minus_infinity_from_the_smallest_number() -> None:
    scores = np.array([[-np.inf, np.finfo(np.float32).min, -np.inf, 0.0]], np.float32)
    assert top_k(scores, ragged([[3]]), 4).tolist() == [[1, 0, 2, -1]]


def place(scores: Scores, shard: Shard, rows: IntArray, k: int, compiled: bool) -> Placed:
    """Rank with machine code or by the definition."""
    train, valid, test = (part.take(rows) for part in (shard.train, shard.valid, shard.test))
    views: dict[View, Scores] = {"mixed": scores}
    if not compiled:
        return place_by_definition(views, train, valid, test, k)
    pytest.importorskip("numba", reason="needs the extra 'sim'")
    from fedrec.evaluation.counting import place_by_rows

    return place_by_rows(views, train, valid, test, k)


def laid_out(values: FloatArray, layout: str) -> Scores:
    """The same scores, kept in memory in another way."""
    tensor = torch.from_numpy(values)
    if layout == "wider":
        wide = torch.full((len(values) + 2, values.shape[1] + 3), float("nan"), dtype=tensor.dtype)
        wide[: len(values), : values.shape[1]] = tensor
        return wide[: len(values), : values.shape[1]]
    if layout == "backwards":
        return values[::-1, ::-1].copy()[::-1, ::-1]
    others: dict[str, Scores] = {
        "tensor": tensor,
        "array": values,
        "columns": tensor.T.contiguous().T,
        "one row": tensor[:1].expand(len(values), -1),
    }
    return others[layout]


def assert_same(one: Placed, two: Placed) -> None:
    np.testing.assert_equal(one.ranks, two.ranks)
    np.testing.assert_array_equal(one.top, two.top)


@settings(deadline=None, max_examples=200)
@given(
    world=worlds,
    k=st.integers(0, 30),
    double=st.booleans(),
    infinite=st.sampled_from([0.0, 0.2, 1.0]),
    layout=st.sampled_from(["tensor", "array", "wider", "backwards", "columns", "one row"]),
    data=st.data(),
)
def test_machine_code_places_as_the_definition_says(
    world: World, k: int, double: bool, infinite: float, layout: str, data: st.DataObject
) -> None:
    shard = world.shard()
    rows = np.array(data.draw(st.permutations(range(shard.n_users))), np.int64)
    rows = rows[: data.draw(st.integers(0, len(rows)))]
    values = world.scores[shard.user_ids[rows]].astype(np.float64 if double else np.float32)
    values[np.random.default_rng(k).random(values.shape) < infinite] = np.inf
    values.setflags(write=False)
    if len(rows) == 0 and layout == "one row":
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        scores = laid_out(values, layout)
    assert_same(place(scores, shard, rows, k, True), place(scores, shard, rows, k, False))


def test_machine_code_places_many_items() -> None:
    for levels in (3, 50, 100_000):
        world = World(levels, 30, 1001, levels)
        shard, rows = world.shard(), np.arange(30, dtype=np.int64)
        for k in (1, 10, 64, 1001):
            compiled = place(world.scores, shard, rows, k, True)
            assert_same(compiled, place(world.scores, shard, rows, k, False))


def test_an_item_that_is_both_relevant_and_known_is_taken_off_once() -> None:
    scores = np.array([[3.0, 3.0, 3.0, 1.0]], np.float32)
    both = ragged([[0, 1]])
    shard = Shard(4, np.arange(1), np.arange(2), np.arange(1), both, both, both)
    for placed in (place(scores, shard, np.arange(1), 3, compiled) for compiled in (True, False)):
        assert placed.ranks["mixed"]["valid"].tolist() == [2, 3]
        assert placed.ranks["mixed"]["test"].tolist() == [2, 3]
        assert placed.top.tolist() == [[2, 3, -1]]


@pytest.mark.parametrize("compiled", [True, False])
def test_whoever_has_no_test_items_is_shown_nothing(compiled: bool) -> None:
    none, some = ragged([[], []]), ragged([[], [1]])
    shard = Shard(3, np.arange(2), np.arange(3), np.arange(2), none, none, some)
    top = place(np.zeros((2, 3), np.float32), shard, np.arange(2), 2, compiled).top
    assert top.tolist() == [[-1, -1], [0, 1]]


@pytest.mark.parametrize("compiled", [True, False])
def test_nan_is_an_error_wherever_it_stands(compiled: bool) -> None:
    world = World(2, 4, 70, 5)
    for item in (0, 37, 69):
        scores = world.scores.copy()
        scores[1:3, item] = np.nan
        with pytest.raises(NumericError, match="2 of 4 users are NaN"):
            place(scores, world.shard(), np.arange(4), 3, compiled)


def test_validation_masks_train_and_test_masks_both() -> None:
    train, valid = ragged([[1], [0]]), ragged([[0], []])
    assert mask_of("valid", train, valid) is train
    both = mask_of("test", train, valid)
    assert [both.row(0).tolist(), both.row(1).tolist()] == [[0, 1], [0]]


@given(world=worlds, count=st.integers(1, 5), seed=st.integers(0, 99))
def test_legacy_candidates_are_items_the_user_never_took(
    world: World, count: int, seed: int
) -> None:
    masked = mask_of("test", mask_of("test", world.train, world.valid), world.test)
    bits = np.random.default_rng(seed).integers(0, 2**32, len(masked) * count, dtype=np.uint32)
    if world.n_items - int(masked.lengths.max()) < count:
        with pytest.raises(ConfigError, match="protocol"):
            legacy_candidates(bits, masked, world.n_items, count)
        return
    drawn = legacy_candidates(bits, masked, world.n_items, count)
    assert drawn.lengths.tolist() == [count] * len(masked)
    for user in range(len(masked)):
        assert not set(drawn.row(user).tolist()) & set(masked.row(user).tolist())
        assert set(drawn.row(user).tolist()) <= set(range(world.n_items))


@pytest.mark.parametrize("part", PARTS)
def test_legacy_ranks_are_never_worse_than_full_ranks(part: Part) -> None:
    world = World(5, 30, 25, 1000)
    excluded = mask_of(part, world.train, world.valid)
    few = ragged([[1, 2, 3]] * 30)
    sampled = ranks_of(world.scores, world.parts[part], excluded, few)
    full = ranks_of(world.scores, world.parts[part], excluded)
    assert np.all(sampled.values <= full.values)
