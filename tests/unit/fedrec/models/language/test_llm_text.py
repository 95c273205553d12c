"""Items and users as text: twins tie, cold items are ranked, histories pool as told."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedrec.data.catalogue import Catalogue
from fedrec.evaluation.scorer import UserScorer
from fedrec.models import LLMText
from fedrec.models.base import Batch, History
from fedrec.models.module import ModelParams
from fedrec.training.task import ClientTask
from tests.planted import method_of, rates, shard_of, train

D, F, N = 4, 6, 8
TWINS = (1, 7)  # equal texts; nobody took the second
SHARD = replace(
    shard_of(N, [[0, 1, 4], [2, 3], [1]], [1, 1, 1]),
    timestamps=np.array([5.0, 3.0, 4.0, 1.0, 0.0, 2.0]),
)


def task_of(model: LLMText) -> ClientTask:
    text = np.random.default_rng(0).normal(size=(N, F)).astype(np.float32) / 2
    text[TWINS[1]] = text[TWINS[0]]
    ids = np.arange(N).astype(str).astype(object)
    catalogue = Catalogue(ids, {}, {"text": text}, {"text": np.ones(N, np.bool_)}, hash="x")
    return method_of({"optimizers": rates(0.1)}, model=model, catalogue=catalogue)


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_a_cold_item_scores_like_its_warm_twin(pool: str) -> None:
    task = task_of(LLMText.model_validate({"embedding_dim": D, "pool": pool}))
    params, updates, local = train(task, SHARD, rounds=3)
    losses = [update.metrics["loss"].sum() for update in updates]
    assert losses[-1] < losses[0]
    assert np.any(local["user"])
    scores = UserScorer(task, SHARD, params, local)(np.arange(3))["mixed"]
    warm, cold = TWINS
    assert torch.equal(scores[:, warm], scores[:, cold])
    assert scores.std(1).min() > 1e-3


def test_rows_of_items_tell_twins_apart() -> None:
    task = task_of(LLMText(embedding_dim=D, id_rows=True))
    params, _, local = train(task, SHARD, rounds=2)
    scores = UserScorer(task, SHARD, params, local)(np.arange(3))["mixed"]
    assert not torch.equal(scores[:, TWINS[0]], scores[:, TWINS[1]])


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_a_state_pools_what_stands_before(pool: str) -> None:
    model = LLMText.model_validate({"embedding_dim": D, "pool": pool})
    rng = torch.Generator().manual_seed(0)
    vectors, query = torch.randn(2, 3, D, generator=rng), torch.randn(D, generator=rng)
    vectors[1, 2] = 0
    history = History(vectors, torch.tensor([3, 2]), torch.zeros(2, 3, dtype=torch.int64))
    states = model.states(ModelParams({"query": query}), history)
    for user in range(2):
        assert torch.equal(states[user, 0], torch.zeros(D))
        for n in range(1, int(history.lengths[user]) + 1):
            past = vectors[user, :n]
            weights = torch.softmax(past @ query, 0) if pool == "attention" else torch.ones(n) / n
            torch.testing.assert_close(states[user, n], weights @ past)


def test_a_score_worked_out_by_hand() -> None:
    """t = (1, 2), W = [[1, 0]], b = (0, 1): e = 1; history e = (3, 5) -> 4; p = 2; s = 6."""
    model = LLMText(embedding_dim=1, feature="words")
    params = ModelParams(
        {
            "words": torch.tensor([[1.0, 2.0]]),
            "adaptor": torch.tensor([[1.0, 0.0]]),
            "shift": torch.tensor([0.0, 1.0]),
            "user": torch.tensor([[2.0]]),
        }
    )
    vectors = model.item_vectors(params, torch.tensor([0]))
    assert vectors.tolist() == [[1.0]]
    zero = torch.zeros(1, dtype=torch.int64)
    past = History(torch.tensor([[[3.0], [5.0]]]), zero + 2, torch.zeros(1, 2, dtype=torch.int64))
    batch = Batch(zero, zero, context=zero + 2, history=past)
    assert model.score(params, batch, vectors).tolist() == [6.0]
    encoded = torch.tensor([[1.0], [-2.0]])
    ranked = Batch(zero, torch.arange(2), history=past)
    assert model.rank(params, ranked, encoded).tolist() == [[6.0, -12.0]]
