"""Slices of the held-out items: what they hold, what they are ranked among, what chance gives."""

import itertools
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedrec.config.experiment import Experiment
from fedrec.errors import ConfigError
from fedrec.evaluation.evaluate import Evaluation, evaluate, merge, per_user_values
from fedrec.evaluation.metrics import PerUserMetric, parse_metric
from fedrec.evaluation.ranking import PARTS, Part
from fedrec.evaluation.settings import Evaluate
from fedrec.evaluation.slices import SLICES, Slice, Slices, list_lengths, rankings_of
from fedrec.personalization.base import View
from fedrec.ragged import Ragged
from fedrec.runs.baseline import chance_levels, evaluate_scorer, slice_sizes
from fedrec.runs.open_run import OpenRun
from fedrec.types import FloatArray, IntArray, Shard, Split
from tests.planted import ragged
from tests.rankings import World, worlds

METRICS = tuple(map(parse_metric, ("ndcg@3", "coverage@2", "hit_rate@2", "recall@3", "mrr")))
PER_USER = [metric for metric in METRICS if isinstance(metric, PerUserMetric)]
names = st.lists(st.sampled_from(SLICES), unique=True)


def split_of(n_items: int, train: Ragged, valid: Ragged, test: Ragged) -> Split:
    n = np.arange(len(train), dtype=np.int64)
    clients = Ragged(np.arange(len(train) + 1, dtype=np.int64), n)
    ids, items = n.astype(str).astype(object), np.arange(n_items).astype(str).astype(object)
    return Split(n_items, train, valid, test, clients, None, None, ids, items)


def split_of_world(world: World) -> Split:
    return split_of(world.n_items, world.train, world.valid, world.test)


def scorer(scores: FloatArray, shard: Shard):  # type: ignore[no-untyped-def]
    def score(rows: IntArray) -> Mapping[View, FloatArray]:
        of_rows = scores[shard.user_ids[rows]]
        return {"mixed": of_rows, "global": -of_rows}

    return score


def measured(
    split: Split, scores: FloatArray, names: list[Slice], block: int = 5, compiled: bool = True
) -> Evaluation:
    shard = split.shard(np.arange(split.n_clients))
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setitem(sys.modules, "numba", None)
        slices = Slices.of(split, names)
        return evaluate(shard, scorer(scores, shard), METRICS, block, slices=slices)


def slow_ranks(split: Split, scores: FloatArray, user: int, part: Part, name: str) -> list[int]:
    """The ranks of a user's held-out items of a slice, by sorting lists of Python."""
    counts = [(split.train.values == item).sum() for item in range(split.n_items)]
    warm = [item for item in range(split.n_items) if counts[item]]
    by_count = sorted(warm, key=lambda item: -counts[item])
    head = set(by_count[: max(1, round(len(warm) / 5))])
    cold = set(range(split.n_items)) - set(warm)
    items_of = {
        "": set(warm),
        "head": head,
        "tail": set(warm) - head,
        "cold": cold,
        "cold_among_all": cold,
    }
    compete = {
        "cold": cold & set(getattr(split, part).values.tolist()),
        "cold_among_all": set(range(split.n_items)),
    }.get(name, set(warm))
    known = set(split.train.row(user).tolist())
    if part == "test":
        known |= set(split.valid.row(user).tolist())
    held_out = getattr(split, part).row(user).tolist()
    # Held-out items win ties among each other by index; all other ties are lost.
    ranked = sorted(
        compete - known,
        key=lambda item: (-scores[user, item], item in held_out, item),
    )
    return sorted(ranked.index(item) + 1 for item in held_out if item in items_of[name])


@settings(deadline=None, max_examples=150)
@given(world=worlds, names=names, part=st.sampled_from(PARTS), compiled=st.booleans())
def test_values_are_those_of_the_slow_definition(
    world: World, names: list[Slice], part: Part, compiled: bool
) -> None:
    split = split_of_world(world)
    evaluation = measured(split, world.scores, names, compiled=compiled)
    labels = evaluation.labels(METRICS)
    for name in ("", *names):
        for view, scores in (("mixed", world.scores), ("global", -world.scores)):
            rows = [slow_ranks(split, scores, u, part, name) for u in range(split.n_users)]
            expected = per_user_values(ragged(rows), METRICS, np.arange(split.n_users))
            suffix = f"[{name}]" if name else ""
            at = [labels.index(metric.label + suffix) for metric in PER_USER]
            np.testing.assert_array_equal(evaluation.values[view][part][:, at], expected)  # type: ignore[index]


@given(world=worlds)
def test_slices_partition_the_held_out_items(world: World) -> None:
    split = split_of_world(world)
    slices = Slices.of(split, SLICES)
    masks = np.stack([slices.items("head"), slices.items("tail"), slices.items("cold")])
    assert (masks.sum(axis=0) == 1).all()
    assert (slices.items("cold") == (split.train_counts() == 0)).all()
    lengths = list_lengths(split, slices)
    for part in PARTS:
        of_part = {name: lengths[name][part][1] for name in ("", *SLICES)}
        every = getattr(split, part).lengths
        assert (of_part["head"] + of_part["tail"] == of_part[""]).all()
        assert (of_part[""] + of_part["cold"] == every).all()
        assert (of_part["cold"] == of_part["cold_among_all"]).all()


@settings(deadline=None, max_examples=40)
@given(world=worlds)
def test_hits_of_head_and_tail_add_up(world: World) -> None:
    split = split_of_world(world)
    values = measured(split, world.scores, ["head", "tail"])
    recall, lengths = PER_USER.index(METRICS[3]), list_lengths(split, Slices.of(split, SLICES))  # type: ignore[arg-type]
    for part in PARTS:
        hits = [
            np.nan_to_num(values.values["mixed"][part][:, at * len(PER_USER) + recall])
            * lengths[name][part][1]
            for at, name in enumerate(("", "head", "tail"))
        ]
        np.testing.assert_allclose(hits[0], hits[1] + hits[2], atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(world=worlds, block=st.integers(1, 13), names=names)
def test_blocks_and_nodes_change_no_bit(world: World, block: int, names: list[Slice]) -> None:
    split = split_of_world(world)
    assume(len(split.train.values))
    one, slices = measured(split, world.scores, names, block), Slices.of(split, names)
    shards = [split.shard(np.array([client])) for client in range(split.n_clients)]
    pieces = [evaluate(s, scorer(world.scores, s), METRICS, slices=slices) for s in shards]
    two = merge(pieces[::-1])
    np.testing.assert_equal(one.values, two.values)
    np.testing.assert_equal(one.exposure, two.exposure)
    np.testing.assert_equal(one.cold_listed, two.cold_listed)
    np.testing.assert_equal(one.summarise(METRICS), two.summarise(METRICS))


@settings(deadline=None, max_examples=30)
@given(world=worlds)
def test_where_nothing_is_cold_the_metrics_are_the_usual_ones(world: World) -> None:
    split, everything = split_of_world(world), np.arange(world.n_items)
    one_more = ragged([*map(split.train.row, range(split.n_users)), everything])  # type: ignore[list-item]
    nothing = ragged([*map(split.valid.row, range(split.n_users)), []])  # type: ignore[list-item]
    test = ragged([*map(split.test.row, range(split.n_users)), []])  # type: ignore[list-item]
    split = split_of(world.n_items, one_more, nothing, test)
    scores = np.concatenate([world.scores, world.scores[:1]])
    shard = split.shard(np.arange(split.n_clients))
    usual = evaluate(shard, scorer(scores, shard), METRICS)
    sliced = measured(split, scores, ["head", "cold_among_all"])
    for view, parts in usual.values.items():
        for part, values in parts.items():
            np.testing.assert_array_equal(sliced.values[view][part][:, : len(PER_USER)], values)
    np.testing.assert_equal(sliced.exposure, usual.exposure)


def test_by_hand() -> None:
    # Train counts of a to h: 3 2 2 1 1 0 0 0. Of five warm items one is the head: a.
    a, b, c, d, e, f, g, h = range(8)
    train, valid = [[a, b, d], [a, c], [a, b, c, e]], [[f], [g], []]
    test = [[c, h], [b, e, h], []]
    split = split_of(8, ragged(train), ragged(valid), ragged(test))
    assert np.flatnonzero(Slices.of(split, ()).is_head).tolist() == [a]
    scores = np.zeros((3, 8), np.float32)
    #                 a  b  c  d  e  f  g  h
    scores[0] = [9, 9, 3, 9, 5, 8, 7, 4]
    scores[1] = [9, 2, 9, 6, 4, 1, 8, 5]
    evaluation = measured(split, scores, ["head", "tail", "cold", "cold_among_all"])
    test_means = evaluation.summarise(METRICS)
    # Warm: user 0 ranks e, c; user 1 ranks d, e, b, of which e and b are held out.
    assert test_means["recall@3"] == 1.0
    assert test_means["mrr"] == test_means["mrr[tail]"] == 0.5
    assert test_means["hit_rate@2[tail]"] == 1.0
    assert np.isnan(test_means["mrr[head]"])
    # Cold items of the test are h alone, f and g are cold for validation.
    assert test_means["mrr[cold]"] == 1.0
    # Among all, user 0 ranks g e h c, for f is known; user 1 d h e b f.
    assert test_means["mrr[cold_among_all]"] == (1 / 3 + 1 / 2) / 2
    assert test_means["cold_share@2[cold_among_all]"] == 2 / 4
    assert test_means["coverage@2"] == 3 / 5
    valid_means = evaluation.summarise(METRICS, "mixed", "valid")
    assert "cold_share@2[cold_among_all]" not in valid_means
    assert np.isnan(valid_means["mrr"]) and valid_means["mrr[cold]"] == 1.0
    # Among all, user 0 has f first of c e f g h; user 1 has g first of b d e f g h.
    assert valid_means["mrr[cold_among_all]"] == 1.0
    sizes = slice_sizes(Evaluate(slices=("head", "tail", "cold")), split)
    assert sizes == {
        "head": {
            "items": 1,
            "users": {"valid": 0, "test": 0},
            "ranked": {"valid": None, "test": None},
        },
        "tail": {
            "items": 4,
            "users": {"valid": 0, "test": 2},
            "ranked": {"valid": None, "test": 2.5},
        },
        "cold": {
            "items": 3,
            "users": {"valid": 2, "test": 2},
            "ranked": {"valid": 2.0, "test": 1.0},
        },
    }


def test_constant_scores_are_worst_in_every_slice() -> None:
    world = World(7, 30, 40, 1)
    split = split_of_world(world)
    evaluation = measured(split, np.zeros_like(world.scores), list(SLICES))
    lengths = list_lengths(split, Slices.of(split, SLICES))
    for name in ("", *SLICES):
        for part in PARTS:
            left, held_out = lengths[name][part]
            (ranking,) = (
                each
                for each in rankings_of(split, Slices.of(split, SLICES))
                if name in each.slices and part in each.parts
            )
            others = left - (ranking.valid if part == "valid" else ranking.test).lengths
            label = "mrr" + (f"[{name}]" if name else "")
            column = evaluation.labels(METRICS).index(label)
            ranks = 1 / evaluation.values["mixed"][part][:, column]
            assert (ranks[held_out > 0] > others[held_out > 0]).all()


@pytest.mark.parametrize("label", ["ndcg@3", "hit_rate@2", "recall@4", "recall@9", "mrr", "mrr@2"])
def test_chance_is_the_mean_over_all_rankings(label: str) -> None:
    metric = parse_metric(label)
    assert isinstance(metric, PerUserMetric)
    for n, m in itertools.product(range(1, 8), range(1, 8)):
        if m <= n:
            ranks = [list(each) for each in itertools.combinations(range(1, n + 1), m)]
            expected = metric.per_user(ragged(ranks)).mean()
            level = metric.chance(np.array([n, n]), np.array([m, m]))
            assert level.tolist() == pytest.approx([expected] * 2, rel=1e-12)


def test_random_scores_have_the_level_of_chance() -> None:
    rng = np.random.default_rng(0)
    world = World(3, 400, 60, 5)
    split = split_of_world(world)
    cold = rng.permutation(60)[:20]
    train = split.train.where(~np.isin(split.train.values, cold))
    split = split_of(60, train, split.valid, split.test)
    evaluate_section = Evaluate(metrics=("ndcg@5", "recall@5", "hit_rate@5", "mrr"), slices=SLICES)
    drawn = [
        evaluate_scorer(
            lambda users: rng.random((len(users), 60), np.float32), split, evaluate_section
        )
        for _ in range(30)
    ]
    for part, levels in chance_levels(evaluate_section, split).items():
        assert len(levels) == 4 * 5
        for label, level in levels.items():
            means = [
                each.summarise(evaluate_section.parsed(), "mixed", part)[label]  # type: ignore[arg-type]
                for each in drawn
            ]
            assert np.mean(means) == pytest.approx(level, abs=4 * np.std(means) / 30**0.5)


class _Own(PerUserMetric):
    def per_user(self, ranks: Ragged) -> FloatArray:
        return np.ones(len(ranks))


def test_chance_of_an_own_metric_is_not_known() -> None:
    assert np.isnan(_Own(k=3).chance(np.array([4]), np.array([1]))).all()


def test_slices_are_known_and_given_once() -> None:
    with pytest.raises(ConfigError, match="'tail' is given twice"):
        Evaluate(slices=("tail", "head", "tail"))
    with pytest.raises(ConfigError, match="expected 'head'"):
        Evaluate.model_validate({"slices": ["middle"]})


def test_no_cold_items_and_short_lists_are_told() -> None:
    def run(split: Split) -> OpenRun:
        experiment = Experiment.model_validate({"data": "synthetic"})
        return OpenRun(Path(), experiment, Path(), split)

    train, test = ragged([[0, 1, 2], [1, 2]]), ragged([[], [0]])
    split = split_of(3, train, ragged([[], []]), test)
    lines = Evaluate(metrics=("mrr",), slices=("cold",)).without_effect(run(split))
    assert "slices: cold have no items: somebody trains on each; set data.split.cold_items" in lines
    few = split_of(9, ragged([[0, 1, 2], [1, 2, 3, 4, 5, 6]]), ragged([[], []]), ragged([[7], [8]]))
    lines = Evaluate(metrics=("ndcg@2",), slices=("cold",)).without_effect(run(few))
    assert any(
        line.startswith("metrics: ndcg@2[cold]: 2 of 2 users have at most 2") for line in lines
    )
