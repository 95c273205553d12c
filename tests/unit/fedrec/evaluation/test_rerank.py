"""A model that re-ranks the candidates of a first stage."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedrec.baselines.methods import Popularity
from fedrec.data import Synthetic
from fedrec.data.clients import Clients
from fedrec.data.prepare import split_of
from fedrec.errors import ConfigError
from fedrec.evaluation.rerank import FirstStage, Rerank, reranked
from fedrec.evaluation.scorer import UserScorer
from fedrec.evaluation.settings import Evaluate
from fedrec.models import MatrixFactorization, Model, NeuMF, SASRec
from fedrec.personalization.base import NoPersonalization, Personalization
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.runs.baseline import evaluate_scorer
from fedrec.types import FloatArray
from tests.planted import method_of, shard_of, train
from tests.rankings import ragged


def test_candidates_are_the_best_of_the_first_stage_but_train_items() -> None:
    scores = np.array([[5.0, 1, 4, 4, 0], [1, 1, 1, 1, 1]], np.float32)
    stage = FirstStage(lambda users: scores[users], 2)
    order = stage.order(np.array([1, 0]), ragged([[0, 2], [0]]))
    assert order.tolist() == [[1, 3, 4, 0, 2], [2, 3, 1, 4, 0]]


def test_popularity_counts_train_items() -> None:
    split = split_of(Synthetic(users=20, items=30), Clients())
    counts = np.bincount(split.train.values, minlength=split.n_items)
    order = FirstStage.of(Rerank(n=5), split).order(np.arange(20), split.train).numpy()
    for user, items in enumerate(order):
        others = np.setdiff1d(np.arange(split.n_items), split.train.row(user))
        best = others[np.argsort(-counts[others], kind="stable")]
        assert items[: len(best)].tolist() == best.tolist()
    metrics = ("mrr", "recall@3")
    rankings = (Evaluate(metrics=metrics, rerank=rerank) for rerank in (None, Rerank(n=5)))
    alone, twice = (evaluate_scorer(Popularity().fit(split, 0), split, r) for r in rankings)
    # Equal scores count against an item; below the candidates the first stage has none.
    assert (alone.values["mixed"]["test"] <= twice.values["mixed"]["test"]).all()


@given(st.integers(0, 999), st.integers(1, 9))
def test_the_model_orders_the_candidates_and_the_first_stage_the_rest(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    scores, order = (
        rng.integers(0, 4, (3, 8)).astype(np.float32),
        rng.permuted(np.tile(np.arange(8), (3, 1)), axis=1),
    )
    result = reranked(torch.from_numpy(scores), torch.from_numpy(order), n).numpy()
    for user in range(3):
        candidates, others = order[user, :n], order[user, n:]
        for one in candidates:
            for other in candidates:
                expected = np.sign(scores[user, one] - scores[user, other])
                assert np.sign(result[user, one] - result[user, other]) == expected
        below: FloatArray = result[user, others]
        assert (np.diff(below) < 0).all()
        assert not len(others) or result[user, candidates].min() > below.max()


@pytest.mark.parametrize("model", [MatrixFactorization(), NeuMF(), SASRec(max_len=4)])
@pytest.mark.parametrize("personalization", [NoPersonalization(), PLGC(branch="table"), PLGC()])
def test_scores_of_candidates_are_those_of_the_catalogue(
    model: Model, personalization: Personalization
) -> None:
    shard = replace(
        shard_of(9, [[0, 1, 4], [2, 3], [5]], [2, 1]),
        timestamps=np.array([5.0, 3.0, 4.0, 1.0, 0.0, 2.0]),
    )
    task = method_of(model=model, personalization=personalization)
    params, _, local = train(task, shard)
    table = np.random.default_rng(0).normal(size=(3, 9)).astype(np.float32)
    stage, users = FirstStage(lambda users: table[users], 4), np.array([0, 2])
    order = stage.order(users, shard.train.take(users))
    views = UserScorer(task, shard, params, local, stage)(users)
    for view, scores in UserScorer(task, shard, params, local)(users).items():
        assert torch.equal(views[view], reranked(scores, order, 4))


def test_scores_of_others_are_not_looked_at_and_nan_is_kept() -> None:
    order = torch.tensor([[2, 0, 1]])
    nan = float("nan")
    assert reranked(torch.tensor([[1.0, nan, 2.0]]), order, 2).tolist() == [[0.0, -3.0, 1.0]]
    assert reranked(torch.tensor([[nan, 0.0, 2.0]]), order, 2).isnan().tolist() == [
        [True, False, False]
    ]


def test_a_first_stage_is_a_baseline() -> None:
    with pytest.raises(ConfigError, match="first_stage: mf is no centralised baseline"):
        Rerank(first_stage="mf")
    with pytest.raises(ConfigError, match="not in the table of models"):
        Rerank(first_stage="popularit")
    assert str(Rerank()) == "re-ranks 20 of popularity"
