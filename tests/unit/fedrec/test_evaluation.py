"""Ranks equal a slow loop, and no result depends on how users are grouped."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import ConfigError, NumericError
from fedrec.evaluation import (
    PARTS,
    VIEWS,
    Part,
    View,
    check_cutoffs,
    evaluate,
    exposure,
    legacy_candidates,
    mask_of,
    merge,
    per_user_values,
    ranks_of,
    top_k,
)
from fedrec.metrics import parse_metric
from fedrec.types import FloatArray, IntArray, Ragged, Shard, offsets_of

METRICS = tuple(
    parse_metric(label)
    for label in ("ndcg@3", "coverage@2", "hit_rate@3", "recall@3", "mrr", "gini@3")
)


def ragged(rows: list[list[int]]) -> Ragged:
    values = np.array([value for row in rows for value in row], np.int64)
    return Ragged(offsets_of(np.array([len(row) for row in rows], np.int64)), values)


class World:
    """Random users with train, validation and test items, and scores full of ties."""

    def __init__(self, seed: int, n_users: int, n_items: int, levels: int) -> None:
        rng = np.random.default_rng(seed)
        self.n_items = n_items
        self.scores = rng.integers(0, levels, (n_users, n_items)).astype(np.float32)
        self.scores[rng.random(self.scores.shape) < 0.05] = -np.inf
        parts: list[list[list[int]]] = [[], [], []]
        for _ in range(n_users):
            known = rng.permutation(n_items)[: rng.integers(0, n_items + 1)]
            cuts = np.sort(rng.integers(0, len(known) + 1, 2))
            for part, items in zip(parts, np.split(known, cuts), strict=True):
                part.append(sorted(items.tolist()))
        self.train, self.valid, self.test = (ragged(part) for part in parts)
        self.parts: Mapping[Part, Ragged] = {"valid": self.valid, "test": self.test}

    def shard(self) -> Shard:
        n = len(self.train)
        users = np.arange(n, dtype=np.int64)[::-1].copy()  # user rows need not be sorted
        return Shard(
            n_items=self.n_items,
            client_ids=np.arange(n, dtype=np.int64),
            client_offsets=np.arange(n + 1, dtype=np.int64),
            user_ids=users,
            train=self.train.take(users),
            valid=self.valid.take(users),
            test=self.test.take(users),
        )


worlds = st.builds(
    World,
    seed=st.integers(0, 2**31),
    n_users=st.integers(1, 12),
    n_items=st.integers(1, 25),
    levels=st.sampled_from([1, 2, 5, 1000]),
)


def slow_ranks(scores: FloatArray, relevant: list[int], competing: list[int]) -> list[int]:
    """The definition: every tie is lost."""
    found = sorted((scores[item] for item in relevant), reverse=True)
    return [
        sum(scores[j] >= score for j in competing) + place
        for place, score in enumerate(found, start=1)
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


def test_the_ideal_ranking_gives_the_first_ranks_and_one() -> None:
    world = World(3, 20, 30, 1000)
    owners = world.test.owners()
    ideal = np.zeros_like(world.scores)
    ideal[owners, world.test.values] = 1.0
    ranks = ranks_of(ideal, world.test, mask_of("test", world.train, world.valid))
    for user in range(len(world.test)):
        assert ranks.row(user).tolist() == list(range(1, len(world.test.row(user)) + 1))
    values = per_user_values(ranks, tuple(parse_metric(f"{m}@30") for m in ("ndcg", "recall")))
    assert np.all(values[world.test.lengths > 0] == 1.0)


@given(world=worlds)
def test_a_relevant_item_is_ranked_even_if_excluded(world: World) -> None:
    everything = ragged([list(range(world.n_items))] * len(world.test))
    ranks = ranks_of(world.scores, world.test, everything)
    for user in range(len(world.test)):
        assert ranks.row(user).tolist() == list(range(1, len(world.test.row(user)) + 1))


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


def test_exposure_counts_lists() -> None:
    top = np.array([[2, 0], [2, -1], [-1, -1]], np.int64)
    assert exposure(top, 4).tolist() == [1, 0, 2, 0]
    assert exposure(np.empty((0, 0), np.int64), 2).tolist() == [0, 0]


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


def scorer(world: World, shard: Shard, views: tuple[View, ...]):  # type: ignore[no-untyped-def]
    def score(rows: IntArray) -> dict[View, FloatArray]:
        mine = world.scores[shard.user_ids[rows]]
        return {view: mine if view == "mixed" else -np.abs(mine) for view in views}

    return score


@settings(deadline=None, max_examples=30)
@given(world=worlds, block=st.integers(1, 13), other=st.integers(1, 13), seed=st.integers(0, 99))
def test_blocks_and_nodes_change_no_bit(world: World, block: int, other: int, seed: int) -> None:
    shard = world.shard()
    score = scorer(world, shard, VIEWS)
    one = evaluate(shard, score, METRICS, block)
    pieces = [
        evaluate(sub, scorer(world, sub, VIEWS), METRICS, other)
        for sub in (
            Shard(
                n_items=shard.n_items,
                client_ids=shard.client_ids[i : i + 1],
                client_offsets=np.array([0, 1], np.int64),
                user_ids=shard.user_ids[i : i + 1],
                train=shard.train.take(np.array([i])),
                valid=shard.valid.take(np.array([i])),
                test=shard.test.take(np.array([i])),
            )
            for i in np.random.default_rng(seed).permutation(shard.n_users)
        )
    ]
    two = merge(pieces)
    np.testing.assert_array_equal(one.users, np.arange(shard.n_users))
    np.testing.assert_array_equal(one.users, two.users)
    for k in (2, 3):
        np.testing.assert_array_equal(one.exposure[k], two.exposure[k])
    for view in VIEWS:
        for part in PARTS:
            np.testing.assert_array_equal(one.values[view][part], two.values[view][part])
            np.testing.assert_equal(
                one.summarise(METRICS, view, part), two.summarise(METRICS, view, part)
            )


def test_the_summary_is_what_it_says() -> None:
    world = World(11, 40, 25, 1000)
    shard = world.shard()
    found = evaluate(shard, scorer(world, shard, VIEWS), METRICS, 7)
    test = found.summarise(METRICS)
    assert list(test) == [metric.label for metric in METRICS]
    assert "coverage@2" not in found.summarise(METRICS, "mixed", "valid")
    assert "gini@3" not in found.summarise(METRICS, "global", "test")
    excluded = mask_of("test", world.train, world.valid)
    values = per_user_values(ranks_of(world.scores, world.test, excluded), METRICS)
    expected = np.nanmean(values, axis=0)
    shown = [test[label] for label in ("ndcg@3", "hit_rate@3", "recall@3", "mrr")]
    np.testing.assert_allclose(shown, expected, rtol=1e-14)
    tested = np.flatnonzero(world.test.lengths > 0)
    lists = top_k(world.scores[tested], excluded.take(tested), 2)
    assert test["coverage@2"] == len(set(lists.ravel().tolist()) - {-1}) / world.n_items


def test_validation_masks_train_and_test_masks_both() -> None:
    train, valid = ragged([[1], [0]]), ragged([[0], []])
    assert mask_of("valid", train, valid) is train
    both = mask_of("test", train, valid)
    assert [both.row(0).tolist(), both.row(1).tolist()] == [[0, 1], [0]]


def test_nobody_to_evaluate_gives_nan() -> None:
    none = ragged([[], []])
    shard = Shard(3, np.arange(2), np.arange(3), np.arange(2), none, none, none)
    found = evaluate(
        shard, lambda rows: {"mixed": np.zeros((len(rows), 3), np.float32)}, METRICS, 2
    )
    assert np.isnan(found.summarise(METRICS)["ndcg@3"])
    assert found.exposure[2].tolist() == [0, 0, 0]


def test_a_user_is_evaluated_once() -> None:
    world = World(0, 3, 5, 5)
    shard = world.shard()
    found = evaluate(shard, scorer(world, shard, ("mixed",)), METRICS, 2)
    with pytest.raises(ValueError, match="twice"):
        merge([found, found])
    with pytest.raises(ValueError, match="no evaluation"):
        merge([])


def test_a_list_longer_than_the_catalogue_is_an_error() -> None:
    metrics = (parse_metric("mrr"), parse_metric("ndcg@10"))
    check_cutoffs(metrics, 10)
    with pytest.raises(ConfigError, match=r"evaluate\.metrics: ndcg@10 .* has 9"):
        check_cutoffs(metrics, 9)


@given(world=worlds, count=st.integers(1, 5), seed=st.integers(0, 99))
def test_legacy_candidates_are_items_the_user_never_took(
    world: World, count: int, seed: int
) -> None:
    known = mask_of("test", mask_of("test", world.train, world.valid), world.test)
    bits = np.random.default_rng(seed).integers(0, 2**32, len(known) * count, dtype=np.uint32)
    if world.n_items - int(known.lengths.max()) < count:
        with pytest.raises(ConfigError, match="protocol"):
            legacy_candidates(bits, known, world.n_items, count)
        return
    drawn = legacy_candidates(bits, known, world.n_items, count)
    assert drawn.lengths.tolist() == [count] * len(known)
    for user in range(len(known)):
        assert not set(drawn.row(user).tolist()) & set(known.row(user).tolist())
        assert set(drawn.row(user).tolist()) <= set(range(world.n_items))


@pytest.mark.parametrize("part", PARTS)
def test_legacy_ranks_are_never_worse_than_full_ranks(part: Part) -> None:
    world = World(5, 30, 25, 1000)
    excluded = mask_of(part, world.train, world.valid)
    few = ragged([[1, 2, 3]] * 30)
    sampled = ranks_of(world.scores, world.parts[part], excluded, few)
    full = ranks_of(world.scores, world.parts[part], excluded)
    assert np.all(sampled.values <= full.values)
