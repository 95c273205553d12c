"""Target items: which they are, and the share of them that users are shown."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fedrec
from fedrec.config.experiment import Experiment
from fedrec.errors import ConfigError
from fedrec.evaluation.evaluate import Evaluation, evaluate, merge
from fedrec.evaluation.metrics import parse_metric
from fedrec.evaluation.settings import Evaluate
from fedrec.evaluation.slices import Slices
from fedrec.personalization.base import View
from fedrec.ragged import Ragged
from fedrec.types import FloatArray, IntArray, Shard, Split
from tests.planted import ragged
from tests.rankings import World, worlds

METRICS = tuple(map(parse_metric, ("ndcg@3", "er@2", "coverage@2", "er@5")))
DATA = {"name": "synthetic", "users": 30, "items": 40, "taste_groups": 2}


def split_of(n_items: int, train: Ragged, valid: Ragged, test: Ragged) -> Split:
    n = np.arange(len(train), dtype=np.int64)
    clients = Ragged(np.arange(len(train) + 1, dtype=np.int64), n)
    ids = np.array([f"i{item}" for item in range(n_items)], object)
    return Split(n_items, train, valid, test, clients, None, None, n.astype(str), ids)


def split_with_counts(counts: list[int]) -> Split:
    """Items with these numbers of train interactions."""
    rows = [[i for i, count in enumerate(counts) if count > u] for u in range(max(counts))]
    nothing = ragged([[] for _ in rows])
    return split_of(len(counts), ragged(rows), nothing, nothing)


def measured(
    shard: Shard, scores: FloatArray, targets: IntArray, block: int = 64, **more: Any
) -> Evaluation:
    def score(rows: IntArray) -> dict[View, FloatArray]:
        of_rows = scores[shard.user_ids[rows]]
        return {"mixed": of_rows, "global": -of_rows, "local": np.abs(of_rows)}

    return evaluate(shard, score, METRICS, block, targets=targets, **more)


def slow_exposure(
    split: Split, scores: FloatArray, user: int, targets: list[int], k: int, items: set[int]
) -> float:
    """The definition: sort what is left, ties lost by the targets to all others."""
    had = {*split.train.row(user).tolist(), *split.valid.row(user).tolist()}
    eligible = {*targets} - had - {*split.test.row(user).tolist()}
    ranked = sorted(items - had, key=lambda item: (-scores[item], item in eligible, item))
    return len(eligible & {*ranked[:k]}) / len(eligible) if eligible else float("nan")


@pytest.mark.parametrize("with_slices", [False, True])
@pytest.mark.parametrize("compiled", [True, False])
@settings(deadline=None, max_examples=60)
@given(world=worlds, block=st.integers(1, 13), data=st.data())
def test_exposure_equals_a_slow_sort_in_every_view(
    compiled: bool, with_slices: bool, world: World, block: int, data: st.DataObject
) -> None:
    split = split_of(world.n_items, world.train, world.valid, world.test)
    slices = Slices.of(split, ["head", "cold_among_all"]) if with_slices else None
    items = np.arange(world.n_items) if slices is None else np.flatnonzero(~slices.is_cold)
    assume(len(items))
    targets = [t for t in items.tolist() if data.draw(st.booleans())]
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setitem(sys.modules, "numba", None)
        evaluation = measured(
            world.shard(), world.scores, np.array(targets, np.int64), block, slices=slices
        )
    labels = evaluation.labels(METRICS)
    assert [label for label in labels if label.startswith("er")] == ["er@2", "er@5"]
    assert not any(label.startswith("er") for label in evaluation.labels(METRICS, "valid"))
    views = {"mixed": world.scores, "global": -world.scores, "local": np.abs(world.scores)}
    for view, scores in views.items():
        for k in (2, 5):
            expected = [
                slow_exposure(split, scores[user], user, targets, k, {*items.tolist()})
                for user in range(split.n_users)
            ]
            values = evaluation.values[view]["test"][:, labels.index(f"er@{k}")]  # type: ignore[index]
            np.testing.assert_array_equal(values, expected)
            mean = evaluation.summarise(METRICS, view, "test")[f"er@{k}"]  # type: ignore[arg-type]
            defined = [value for value in expected if value == value]
            assert mean == pytest.approx(np.mean(defined)) if defined else mean != mean


def test_targets_on_top_give_one_and_constant_scores_none() -> None:
    train, valid, test = ragged([[0], [1], [2], [3]]), ragged([[], [], [3], []]), ragged([[4]] * 4)
    shard = split_of(9, train, valid, test).shard(np.arange(4))
    scores = np.zeros((4, 9), np.float32)
    scores[:, [3, 4, 8]] = 2.0, 1.0, 2.0
    exposed = measured(shard, scores, np.array([3, 4, 8]))
    column = exposed.labels(METRICS).index("er@2")
    # Item 4 is everybody's test item: no target for anybody, but what competes with the targets.
    assert exposed.values["mixed"]["test"][:, column].tolist() == [1, 1, 1, 1]
    assert exposed.values["global"]["test"][:, column].tolist() == [0, 0, 0, 0]
    flat = measured(shard, np.zeros((4, 9), np.float32), np.array([0, 8]))
    assert flat.summarise(METRICS)["er@2"] == 0.0
    nobody = measured(shard, scores, np.array([4]))
    assert np.isnan(nobody.summarise(METRICS)["er@2"])


@settings(deadline=None, max_examples=30)
@given(world=worlds, seed=st.integers(0, 99))
def test_nodes_and_the_order_of_clients_change_no_bit(world: World, seed: int) -> None:
    shard, targets = world.shard(), np.arange(0, world.n_items, 3)
    together = measured(shard, world.scores, targets)
    order = np.random.default_rng(seed).permutation(shard.n_users)
    pieces = [
        measured(shard.take(rows), world.scores, targets)
        for rows in np.array_split(order, 3)
        if len(rows)
    ]
    np.testing.assert_equal(merge(pieces).values, together.values)


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=60).filter(any),
    seed=st.integers(0, 2**40),
    data=st.data(),
)
def test_unpopular_targets_are_of_the_lowest_tenth(
    counts: list[int], seed: int, data: st.DataObject
) -> None:
    trained = sorted(count for count in counts if count)
    most = trained[max(1, round(len(trained) / 10)) - 1]
    pool = {item for item, count in enumerate(counts) if 0 < count <= most}
    split, n = split_with_counts(counts), data.draw(st.integers(1, len(pool)))

    def drawn(count: int) -> set[int]:
        chosen = Evaluate(targets={"choose": "unpopular", "count": count})
        items = chosen.targets_of(split, seed).tolist()
        assert items == sorted({*items}) and len(items) == count
        return {*items}

    assert drawn(n) == drawn(n) <= pool
    assert drawn(max(1, n - 1)) <= drawn(n)
    with pytest.raises(ConfigError, match=rf"^evaluate.targets.count: {len(pool) + 1} items are"):
        drawn(len(pool) + 1)


@pytest.mark.parametrize(("choose", "pool"), [("random", [1, 2, 3, 4]), ("unpopular", [2, 4])])
def test_all_items_to_choose_from_are_drawn_alike(choose: Any, pool: list[int]) -> None:
    split = split_with_counts([0, 7, 1, 9, 1])
    chosen = Evaluate.model_validate({"targets": {"choose": choose}})
    drawn = np.concatenate([chosen.targets_of(split, seed) for seed in range(2000)])
    assert sorted({*drawn.tolist()}) == pool
    times = np.bincount(drawn)[pool]
    assert np.abs(times - 2000 / len(pool)).max() < 5 * np.sqrt(2000 / len(pool))


def test_named_targets_are_found_by_raw_id_in_any_order() -> None:
    split = split_with_counts([1, 2, 3])
    assert Evaluate(targets=("i2", "i0")).targets_of(split, 0).tolist() == [0, 2]
    assert Evaluate().targets_of(split, 0).tolist() == []
    assert Evaluate.model_validate({"targets": [12, "7"]}).targets == ("12", "7")
    with pytest.raises(ConfigError, match=r"^evaluate.targets: item 'x' is not in the data"):
        Evaluate(targets=("i0", "x")).targets_of(split, 0)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"targets": []}, "targets: expected item ids"),
        ({"targets": "12"}, "targets: expected item ids"),
        ({"targets": [1.5]}, "targets: expected an item id as text or number, got 1.5"),
        ({"targets": [1, "1"]}, "targets: '1' is given twice"),
        ({"targets": {"choose": "rare"}}, "targets.choose: expected 'unpopular' or 'random'"),
        ({"targets": {"choose": "random", "count": 0}}, "targets.count: expected 1 or more"),
        ({"targets": {"count": 2}}, "targets.choose: is missing"),
        ({"metrics": ["ndcg@5", "er@5"]}, "metrics: er@5 measures the exposure of target items"),
        ({"metrics": ["er@5"], "targets": ["1"]}, "metrics: the first metric chooses the round"),
        ({"metrics": ["ndcg@5", "er"], "targets": ["1"]}, "metrics: metric 'er': expected er@k"),
    ],
)
def test_what_cannot_be_measured_is_one_line(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="^" + message.replace("[", r"\[")) as error:
        Evaluate.model_validate(section)
    assert len(error.value.faults) == 1 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {**DATA, "protocol": "legacy"}}, "evaluate.metrics: er@5 ranks the whole"),
        ({"data": {**DATA, "split": {"cold_items": 0.2}}}, "evaluate.targets: nobody trains on"),
    ],
)
def test_targets_that_are_not_ranked_are_refused_before_the_first_round(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    everything = [str(item) for item in range(40)]
    evaluation = {"metrics": ["ndcg@5", "er@5"], "targets": everything}
    document = {"data": DATA, "evaluate": evaluation, "engine": {"name": "serial"}, **changes}
    with pytest.raises(ConfigError, match=message):
        fedrec.run(Experiment.model_validate(document), out=tmp_path / "run")


@pytest.mark.parametrize(
    "method",
    [
        {"personalization": "plgc", "rounds": {"count": 2}, "engine": {"name": "serial"}},
        {"model": {"name": "itemknn", "tune": False}},
    ],
)
def test_a_run_reports_the_share_of_targets_in_what_it_recommends(
    method: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("pandas", reason="needs the extra 'sim'")
    evaluation = {
        "every": 1,
        "metrics": ["ndcg@10", "er@10"],
        "targets": {"choose": "random", "count": 6},
    }
    document = {"seed": 3, "data": DATA, "evaluate": evaluation, **method}
    done = fedrec.run(Experiment.model_validate(document), out=tmp_path / "run")
    split, result = done.split, done.result
    targets = result["targets"]["items"]
    assert targets == split.item_ids[done.experiment.evaluate.targets_of(split, 3)].tolist()
    lists = done.recommend_all(10).groupby("user")["item"].agg(set)
    users, values = done.per_user().set_index("user"), {}
    for at, user in enumerate(split.user_ids):
        had = np.concatenate([part.row(at) for part in (split.train, split.valid, split.test)])
        eligible = {*targets} - {*split.item_ids[had]}
        if eligible:
            values[user] = len(eligible & lists[user]) / len(eligible)
    exposure = users["test.er@10"].dropna()
    assert exposure.to_dict() == pytest.approx(values) and result["targets"]["users"] == len(values)
    assert result["metrics"]["test"]["er@10"] == pytest.approx(np.mean([*values.values()]))
    assert "er@10" not in result["metrics"]["valid"] and "valid.er@10" not in users
    logged = done.rounds()[(result["best_round"] or 1) - 1].evaluation
    assert logged is not None
    assert logged["mixed"]["test"]["er@10"] == result["metrics"]["test"]["er@10"]
