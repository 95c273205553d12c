"""Baselines by content equal their definitions, and find in planted data what nobody has taken."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse  # noqa: F401  (the first import takes longer than an example may)
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.baselines import BASELINES, content
from fedrec.baselines.content import ColumnPopularity, ContentKNN
from fedrec.config.experiment import Experiment
from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError
from fedrec.evaluation.settings import Evaluate
from fedrec.ragged import Ragged
from fedrec.runs.baseline import chance_levels, evaluate_scorer, tune
from fedrec.types import FloatArray, Split
from tests.planted import ragged


def split_of(n_items: int, train: Ragged, valid: Ragged, test: Ragged, n_cold: int = 0) -> Split:
    n = np.arange(len(train), dtype=np.int64)
    clients = Ragged(np.arange(len(train) + 1, dtype=np.int64), n)
    ids = np.arange(n_items).astype(str).astype(object)
    users = n.astype(str).astype(object)
    return Split(n_items, train, valid, test, clients, None, None, users, ids, n_cold=n_cold)


def train_only(n_items: int, rows: list[list[int]], **columns: list[str]) -> Split:
    nothing = ragged([[] for _ in rows])
    split = split_of(n_items, ragged(rows), nothing, nothing)
    texts = {name: np.array(values, object) for name, values in columns.items()}
    return replace(split, item_columns=texts)


def cosine(one: FloatArray, two: FloatArray) -> float:
    size = float(np.linalg.norm(one) * np.linalg.norm(two))
    return float(one @ two) / size if size > 0 else 0.0


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.sets(st.integers(0, 6), min_size=1).map(sorted), min_size=1, max_size=6),
    seed=st.integers(0, 99),
    neighbours=st.integers(1, 9),
    block=st.integers(1, 9),
)
def test_content_knn_equals_the_slow_loop(
    rows: list[list[int]], seed: int, neighbours: int, block: int
) -> None:
    n, rng = 9, np.random.default_rng(seed)
    features = {
        "text": rng.normal(size=(n, 4)).astype(np.float32),
        "image": rng.normal(size=(n, 2, 3)).astype(np.float32),
    }
    features["image"][rng.integers(0, n, 2)] = 0.0
    split = train_only(n, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content, "BLOCK", block)
        fitted = ContentKNN(neighbours=neighbours).fit(split, 0, Catalogue.of(split, features))
    scores = fitted(np.arange(len(rows)))
    trained = sorted({item for row in rows for item in row})
    for i in range(n):
        weights = {
            j: sum(cosine(f[i].ravel(), f[j].ravel()) for f in features.values()) / 2
            for j in trained
            if j != i
        }
        near = sorted(weights, key=lambda j: -weights[j])[: min(neighbours, len(trained))]
        for user, row in enumerate(rows):
            expected = sum(weights[j] for j in near if j in row)
            assert scores[user, i] == pytest.approx(expected, abs=1e-5)


def test_one_feature_may_be_chosen_and_must_be_there() -> None:
    split = train_only(3, [[0], [1]])
    features: Mapping[str, FloatArray] = {
        "text": np.array([[1, 0], [0, 1], [1, 0]], np.float32),
        "image": np.array([[1, 0], [0, 1], [0, 1]], np.float32),
    }
    catalogue = Catalogue.of(split, features)
    users = np.arange(2)
    text = ContentKNN(features=("text",), neighbours=2).fit(split, 0, catalogue)(users)
    assert text[:, 2].tolist() == [1.0, 0.0]
    image = ContentKNN(features=("image",), neighbours=2).fit(split, 0, catalogue)(users)
    assert image[:, 2].tolist() == [0.0, 1.0]
    with pytest.raises(ConfigError, match=r"no feature 'txt'.*'text'"):
        ContentKNN(features=("txt",)).fit(split, 0, catalogue)
    with pytest.raises(ConfigError, match="itemknn-content compares features of the items"):
        ContentKNN().fit(split, 0)


def test_column_popularity_by_hand() -> None:
    # Train counts 2 1 1 0 0 0; comedy 2 1, drama 1 1, so means 1.5 and 1; all: 4 / 3.
    genres = ["comedy", "comedy|drama", "drama", "drama| comedy", "western|drama", ""]
    split = train_only(6, [[0, 1], [0, 2]], genres=genres)
    scores = ColumnPopularity().fit(split, 0)(np.array([1, 0]))
    expected = np.array([1.5, 1.25, 1.0, 1.25, 1.0, 4 / 3], np.float32)
    assert scores.tolist() == [expected.tolist()] * 2
    with pytest.raises(ConfigError, match=r"the items have no column 'genre'.*genres"):
        ColumnPopularity(column="genre").fit(split, 0)
    with pytest.raises(ConfigError, match=r"no column 'genres' \(they have none\)"):
        ColumnPopularity().fit(train_only(2, [[0], [1]]), 0)


def planted(seed: int = 0) -> tuple[Split, FloatArray]:
    """Users that take items of their own kind alone; features show the kind, with noise."""
    rng = np.random.default_rng(seed)
    n_users, n_items, kinds = 200, 300, 6
    of_item, of_user = rng.integers(0, kinds, n_items), rng.integers(0, kinds, n_users)
    is_cold = np.arange(n_items) >= 200
    rows: list[list[list[int]]] = [[], [], []]
    for user in range(n_users):
        warm = rng.permutation(np.flatnonzero((of_item == of_user[user]) & ~is_cold))
        cold = rng.permutation(np.flatnonzero((of_item == of_user[user]) & is_cold))
        rows[0].append(warm[:12].tolist())
        rows[1].append([*warm[12:14].tolist(), *cold[cold % 2 == 0][:3].tolist()])
        rows[2].append([*warm[14:16].tolist(), *cold[cold % 2 == 1][:3].tolist()])
    train, valid, test = map(ragged, rows)
    split = split_of(n_items, train, valid, test, n_cold=100)
    features = np.eye(kinds)[of_item] + rng.normal(0, 0.3, (n_items, kinds))
    return split, features.astype(np.float32)


def test_content_predicts_cold_items_and_shuffled_content_does_not() -> None:
    split, features = planted()
    evaluate = Evaluate(metrics=("ndcg@10", "recall@10"), slices=("tail", "cold", "cold_among_all"))
    level = chance_levels(evaluate, split)["test"]
    shuffled = np.random.default_rng(1).permutation(features)
    means = [
        evaluate_scorer(
            ContentKNN(neighbours=30).fit(split, 0, Catalogue.of(split, {"kind": each})),
            split,
            evaluate,
        ).summarise(evaluate.parsed())
        for each in (features, shuffled)
    ]
    for label in ("recall@10[tail]", "recall@10[cold]", "ndcg@10[cold_among_all]"):
        assert means[0][label] > 2.5 * level[label]
        assert means[1][label] < 1.3 * level[label]
    # Without content all cold items are equal, and equal scores are the worst.
    popular = evaluate_scorer(BASELINES["popularity"]().fit(split, 0), split, evaluate)
    assert popular.summarise(evaluate.parsed())["recall@10[cold]"] == 0.0


def test_settings_are_tuned_on_the_slice_that_chooses() -> None:
    split, features = planted()
    tried = {}
    for choose_on in (None, "cold"):
        experiment = Experiment.model_validate(
            {
                "data": "synthetic",
                "model": "itemknn-content",
                "evaluate": {"metrics": ["ndcg@10"], "slices": ["cold"], "choose_on": choose_on},
            }
        )
        _, tuning = tune(experiment, split, Catalogue.of(split, {"kind": features}))
        assert tuning is not None
        tried[tuning["metric"]] = [each["valid"] for each in tuning["tried"]]
        evaluation = evaluate_scorer(
            ContentKNN(neighbours=10).fit(split, 0, Catalogue.of(split, {"kind": features})),
            split,
            experiment.evaluate,
        )
        summary = evaluation.summarise(experiment.evaluate.parsed(), "mixed", "valid")
        assert tried[tuning["metric"]][0] == summary[tuning["metric"]]
    assert list(tried) == ["ndcg@10", "ndcg@10[cold]"]
    assert tried["ndcg@10"] != tried["ndcg@10[cold]"]


def test_what_chooses_is_among_the_slices() -> None:
    with pytest.raises(ConfigError, match="choose_on: cold is not among the slices"):
        Evaluate.model_validate({"slices": ["tail"], "choose_on": "cold"})
