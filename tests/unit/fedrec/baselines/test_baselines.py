"""The baselines equal their definitions, and see nothing but train items."""

import math
import sys

import numpy as np
import pytest
import scipy.sparse  # noqa: F401  (the first import takes longer than an example may)
from hypothesis import given
from hypothesis import strategies as st

from fedrec.baselines.base import Baseline, Scorer, TunableBaseline
from fedrec.baselines.methods import EASE, ImplicitALS, ItemKNN, Popularity, RandomScores, solve
from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError, MissingExtra
from fedrec.evaluation.settings import Evaluate
from fedrec.ragged import Ragged, offsets_of
from fedrec.runs.baseline import evaluate_scorer
from fedrec.types import FloatArray, Split

BASELINES = (
    Popularity(),
    RandomScores(),
    ItemKNN(),
    ItemKNN(neighbours=2, shrink=0.0),
    EASE(),
    ImplicitALS(factors=3, iterations=2),
)


def ragged(rows: list[list[int]]) -> Ragged:
    values = np.array([value for row in rows for value in row], np.int64)
    return Ragged(offsets_of(np.array([len(row) for row in rows], np.int64)), values)


def split(rows: list[list[int]], n_items: int, held_out: list[list[int]] | None = None) -> Split:
    n = len(rows)
    out = ragged(held_out if held_out is not None else [[] for _ in rows])
    return Split(
        n_items=n_items,
        train=ragged(rows),
        valid=out,
        test=out,
        clients=ragged([[user] for user in range(n)]),
        timestamps=None,
        ratings=None,
        user_ids=np.arange(n).astype(np.str_),
        item_ids=np.arange(n_items).astype(np.str_),
    )


rows_of_items = st.lists(st.sets(st.integers(0, 9)).map(sorted), min_size=1, max_size=8)


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda y: type(y).__name__)
@given(rows=rows_of_items, seed=st.integers(0, 9))
def test_scores_do_not_depend_on_company_or_held_out_items(
    baseline: Baseline, rows: list[list[int]], seed: int
) -> None:
    users = np.arange(len(rows), dtype=np.int64)
    together = baseline.fit(split(rows, 10), seed)(users)
    assert together.shape == (len(rows), 10)
    assert together.dtype == np.float32
    leaky = split(rows, 10, held_out=[[0, 9] for _ in rows])
    again = baseline.fit(leaky, seed)
    for user in users[::-1]:
        np.testing.assert_array_equal(again(np.array([user]))[0], together[user])


@given(rows=rows_of_items)
def test_popularity_counts_train_items(rows: list[list[int]]) -> None:
    scores = Popularity().fit(split(rows, 10), 0)(np.array([0]))
    assert scores[0].tolist() == [sum(item in row for row in rows) for item in range(10)]


def test_random_scores_are_uniform_independent_and_seeded() -> None:
    data = split([[0]] * 200, 500)
    users = np.arange(200, dtype=np.int64)
    scores = RandomScores().fit(data, 0)(users)
    counts = np.histogram(scores, bins=10, range=(0, 1))[0]
    assert counts.sum() == scores.size
    # Chi-squared with 9 degrees of freedom: 27.9 is passed once in a thousand seeds.
    assert float(((counts - scores.size / 10) ** 2 / (scores.size / 10)).sum()) < 27.9
    assert abs(np.corrcoef(scores[:-1].ravel(), scores[1:].ravel())[0, 1]) < 0.02
    other = RandomScores().fit(data, 1)(users)
    assert abs(np.corrcoef(scores.ravel(), other.ravel())[0, 1]) < 0.02


@given(rows=rows_of_items, neighbours=st.integers(1, 10), shrink=st.sampled_from([0.0, 1.0, 10.0]))
def test_itemknn_equals_the_slow_loop(
    rows: list[list[int]], neighbours: int, shrink: float
) -> None:
    n = 10
    took = np.array([[item in row for item in range(n)] for row in rows], np.float64)
    together, count = took.T @ took, took.sum(axis=0)
    expected = np.zeros((len(rows), n))
    for j in range(n):
        near = [
            (-together[i, j] / (math.sqrt(count[i] * count[j]) + shrink), i)
            for i in range(n)
            if i != j and together[i, j] > 0
        ]
        for negative, i in sorted(near)[:neighbours]:
            expected[:, i] -= took[:, j] * negative
    fitted = ItemKNN(neighbours=neighbours, shrink=shrink).fit(split(rows, n), 0)
    scores = fitted(np.arange(len(rows), dtype=np.int64))
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-7)


def dense(rows: list[list[int]], n_items: int) -> FloatArray:
    return np.array([[float(item in row) for item in range(n_items)] for row in rows])


@given(rows=rows_of_items, regularization=st.sampled_from([0.5, 10.0, 200.0]))
def test_ease_equals_one_ridge_regression_per_item(
    rows: list[list[int]], regularization: float
) -> None:
    n, took = 10, dense(rows, 10)
    expected = np.zeros((n, n))
    for item in range(n):
        others = [other for other in range(n) if other != item]
        features = took[:, others]
        gram = features.T @ features + regularization * np.eye(n - 1)
        expected[others, item] = np.linalg.solve(gram, features.T @ took[:, item])
    fitted = EASE(regularization=regularization).fit(split(rows, n), 0)
    scores = fitted(np.arange(len(rows), dtype=np.int64))
    np.testing.assert_allclose(scores, took @ expected, rtol=1e-4, atol=1e-6)


def test_ease_refuses_a_catalogue_that_would_not_fit_into_memory() -> None:
    with pytest.raises(ConfigError, match=r"model.max_items: ease inverts .* accepts 9 items"):
        EASE(max_items=9).fit(split([[0]], 10), 0)


@given(
    rows=rows_of_items,
    seed=st.integers(0, 9),
    regularization=st.sampled_from([0.01, 0.1]),
    alpha=st.sampled_from([0.1, 1.0]),
)
def test_ials_solves_the_weighted_least_squares_of_all_cells(
    rows: list[list[int]], seed: int, regularization: float, alpha: float
) -> None:
    n, d, took = 10, 3, dense(rows, 10)
    items = np.random.default_rng(seed).normal(size=(n, d))
    expected = np.zeros((len(rows), d))
    for user, row in enumerate(took):
        # One row per cell: weight alpha towards 0, and weight 1 towards 1 where it was taken.
        ridge = regularization * (row.sum() + alpha * n)
        design = np.concatenate([alpha**0.5 * items, items[row > 0], ridge**0.5 * np.eye(d)])
        target = np.concatenate([np.zeros(n), np.ones(int(row.sum())), np.zeros(d)])
        expected[user] = np.linalg.lstsq(design, target)[0]
    solved = solve(ragged(rows), items, regularization, alpha)
    np.testing.assert_allclose(solved, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "baseline",
    [ItemKNN(), EASE(), ImplicitALS(factors=2, regularization=0.1)],
    ids=lambda y: type(y).__name__,
)
def test_the_planted_groups_are_found(baseline: Baseline) -> None:
    rng = np.random.default_rng(0)
    rows = [sorted((rng.permutation(20)[:8] + 20 * (user % 2)).tolist()) for user in range(60)]
    scores = baseline.fit(split(rows, 40), 0)(np.arange(60, dtype=np.int64))
    for user, row in enumerate(rows):
        own = range(20 * (user % 2), 20 * (user % 2) + 20)
        unseen = [item for item in own if item not in row]
        others = [item for item in range(40) if item not in own]
        assert scores[user, unseen].mean() > scores[user, others].max()


@pytest.mark.parametrize("kind", [ItemKNN, EASE, ImplicitALS])
def test_only_settings_that_are_not_given_are_tried(kind: type[TunableBaseline]) -> None:
    names = list(kind.grid)
    assert len(kind().candidates()) == math.prod(len(values) for values in kind.grid.values())
    given_first = kind.model_validate({names[0]: 7})
    assert {getattr(c, names[0]) for c in given_first.candidates()} == {7}
    assert given_first.open_settings() == tuple(names[1:])
    given_all = kind.model_validate(dict.fromkeys(names, 7))
    assert given_all.candidates() == [given_all]
    assert given_all.settings() == dict.fromkeys(names, 7)


def test_itemknn_without_scipy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingExtra, match="run: pip install "):
        ItemKNN().fit(split([[0]], 1), 0)


class _Diverges(Baseline):
    def fit(self, split: Split, seed: int, catalogue: Catalogue | None = None) -> Scorer:
        return lambda users: np.full((len(users), split.n_items), np.nan, np.float32)


def test_a_baseline_whose_scores_are_nan_is_named() -> None:
    data = split([[0], [1]], 3, [[1], [2]])
    with pytest.raises(ConfigError, match="model _Diverges: the scores of 2 of 2 users are NaN"):
        evaluate_scorer(_Diverges().fit(data, 0), data, Evaluate(metrics=("mrr",)))
