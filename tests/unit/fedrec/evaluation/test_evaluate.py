"""The metrics are those of the ranks, and no result depends on how users are grouped."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import ConfigError
from fedrec.evaluation.evaluate import (
    block_users,
    check_cutoffs,
    evaluate,
    merge,
    per_user_values,
)
from fedrec.evaluation.metrics import ExposureMetric, Metric, PerUserMetric, parse_metric
from fedrec.evaluation.ranking import PARTS, mask_of, ranks_of, top_k
from fedrec.personalization.base import View
from fedrec.ragged import Ragged
from fedrec.types import FloatArray, IntArray, Shard
from tests.planted import shard_of
from tests.rankings import World, ragged, worlds

VIEWS: tuple[View, ...] = ("mixed", "global", "local")
METRICS = tuple(
    parse_metric(label)
    for label in ("ndcg@3", "coverage@2", "hit_rate@3", "recall@3", "mrr", "gini@3")
)


def test_the_ideal_ranking_gives_the_first_ranks_and_one() -> None:
    world = World(3, 20, 30, 1000)
    owners = world.test.owners()
    ideal = np.zeros_like(world.scores)
    ideal[owners, world.test.values] = 1.0
    ranks = ranks_of(ideal, world.test, mask_of("test", world.train, world.valid))
    for user in range(len(world.test)):
        assert ranks.row(user).tolist() == list(range(1, len(world.test.row(user)) + 1))
    metrics = tuple(parse_metric(f"{m}@30") for m in ("ndcg", "recall"))
    values = per_user_values(ranks, metrics, np.arange(len(ranks)))
    assert np.all(values[world.test.lengths > 0] == 1.0)


@settings(deadline=None, max_examples=20)
@given(world=worlds, block=st.integers(1, 13))
def test_without_numba_the_result_is_the_same(world: World, block: int) -> None:
    shard = world.shard()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "numba", None)
        slow = evaluate(shard, scorer(world, shard, VIEWS), METRICS, block)
    fast = evaluate(shard, scorer(world, shard, VIEWS), METRICS)
    for view in VIEWS:
        for part in PARTS:
            np.testing.assert_array_equal(fast.values[view][part], slow.values[view][part])
    for k in (2, 3):
        np.testing.assert_array_equal(fast.exposure[k], slow.exposure[k])


@given(n_items=st.integers(0, 10**7))
def test_the_memory_of_a_block_is_bounded(n_items: int) -> None:
    users = block_users("auto", n_items)
    assert users == 64 or users * n_items * 4 <= 16 * 2**20
    assert block_users(7, n_items) == 7


def scorer(world: World, shard: Shard, views: tuple[View, ...]):  # type: ignore[no-untyped-def]
    def score(rows: IntArray) -> dict[View, FloatArray]:
        of_rows = world.scores[shard.user_ids[rows]]
        return {view: of_rows if view == "mixed" else -np.abs(of_rows) for view in views}

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
    evaluation = evaluate(shard, scorer(world, shard, VIEWS), METRICS, 7)
    test = evaluation.summarise(METRICS)
    assert list(test) == [metric.label for metric in METRICS]
    assert "coverage@2" not in evaluation.summarise(METRICS, "mixed", "valid")
    assert "gini@3" not in evaluation.summarise(METRICS, "global", "test")
    excluded = mask_of("test", world.train, world.valid)
    ranks = ranks_of(world.scores, world.test, excluded)
    values = per_user_values(ranks, METRICS, np.arange(len(ranks)))
    expected = np.nanmean(values, axis=0)
    shown = [test[label] for label in ("ndcg@3", "hit_rate@3", "recall@3", "mrr")]
    np.testing.assert_allclose(shown, expected, rtol=1e-14)
    tested = np.flatnonzero(world.test.lengths > 0)
    lists = top_k(world.scores[tested], excluded.take(tested), 2)
    assert test["coverage@2"] == len(set(lists.ravel().tolist()) - {-1}) / world.n_items


def test_nobody_to_evaluate_gives_nan() -> None:
    none = ragged([[], []])
    shard = Shard(3, np.arange(2), np.arange(3), np.arange(2), none, none, none)
    evaluation = evaluate(
        shard, lambda rows: {"mixed": np.zeros((len(rows), 3), np.float32)}, METRICS, 2
    )
    assert np.isnan(evaluation.summarise(METRICS)["ndcg@3"])
    assert evaluation.exposure[2].tolist() == [0, 0, 0]


def test_a_user_is_evaluated_once() -> None:
    world = World(0, 3, 5, 5)
    shard = world.shard()
    evaluation = evaluate(shard, scorer(world, shard, ("mixed",)), METRICS, 2)
    with pytest.raises(ValueError, match="twice"):
        merge([evaluation, evaluation])
    with pytest.raises(ValueError, match="nobody"):
        evaluate(shard.take(np.arange(0)), scorer(world, shard, ("mixed",)), METRICS)


def test_a_list_longer_than_the_catalogue_is_an_error() -> None:
    metrics = (parse_metric("mrr"), parse_metric("ndcg@10"))
    check_cutoffs(metrics, 10)
    with pytest.raises(ConfigError, match=r"evaluate\.metrics: ndcg@10 .* has 9"):
        check_cutoffs(metrics, 9)


class _OneNumber(PerUserMetric):
    def per_user(self, ranks: Ragged) -> FloatArray:
        return np.ones(1)


def test_a_metric_that_gives_another_shape_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"_OneNumber@3 gave the shape \(1,\) for 2 users"):
        per_user_values(ragged([[1], [], [2, 3]]), [_OneNumber(k=3)], np.arange(3))


class _Value(PerUserMetric):
    bounds = (0.0, 1.0)
    gives: float = 0.0

    def per_user(self, ranks: Ragged) -> FloatArray:
        return np.where(np.arange(len(ranks)) == 1, self.gives, 0.5)


class _Spread(ExposureMetric):
    def value(self, exposure: IntArray) -> float:
        return float("nan")


@pytest.mark.parametrize(
    ("metric", "named"),
    [
        *((_Value.model_construct(gives=v, k=3), "user 7, ") for v in (np.nan, np.inf, -14.0, 2.0)),
        (_Spread(k=3), "all users"),
    ],
)
def test_a_value_that_is_no_number_within_bounds_names_class_and_user(
    metric: Metric, named: str
) -> None:
    one, none = Ragged(np.arange(9), np.ones(8, np.int64)), ragged([[]] * 8)
    users = np.array([0, 7, 2, 3, 4, 5, 6, 1])
    shard = replace(World(0, 8, 9, 5).shard(), train=none, valid=none, test=one, user_ids=users)
    with pytest.raises(ConfigError, match=f"class {type(metric).__name__}.*{named}.*expected a"):
        evaluate(
            shard, lambda rows: {"mixed": np.zeros((len(rows), 9), np.float32)}, [metric]
        ).summarise([metric])


class _Writes(PerUserMetric):
    needs_k = False

    def per_user(self, ranks: Ragged) -> FloatArray:
        ranks.values[:] = 1
        return np.ones(len(ranks))


def test_a_metric_cannot_change_what_the_next_one_is_given() -> None:
    ranks = ragged([[3], [5, 7]])
    with pytest.raises(ValueError, match="read-only"):
        per_user_values(ranks, (_Writes(), *METRICS), np.arange(2))
    assert ranks.values.tolist() == [3, 5, 7]


def test_nobody_is_scored_for_nothing() -> None:
    """Users without held-out items change no value, and are not asked for scores."""
    shard = shard_of(6, [[0, 1], [2], [3], [4]], [1] * 4)
    nothing = ragged([[], [5], [], [0]])
    shard = replace(shard, valid=ragged([[], [1], [], []]), test=nothing)
    asked: list[int] = []

    def score(users: IntArray) -> dict[View, FloatArray]:
        asked.extend(users.tolist())
        return {"mixed": np.tile(np.arange(6.0), (len(users), 1))}

    metrics = (parse_metric("ndcg@2"), parse_metric("coverage@2"))
    evaluation = evaluate(shard, score, metrics, block=1)
    assert asked == [1, 3]
    values = evaluation.values["mixed"]["test"][:, 0]
    assert np.isnan(values).tolist() == [True, False, True, False]
    assert values[[1, 3]].tolist() == [1.0, 0.0]
