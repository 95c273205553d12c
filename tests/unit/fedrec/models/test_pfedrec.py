"""PFedRec by hand: one user, one step."""

import numpy as np
import torch

from fedrec.evaluation.scorer import UserScorer
from fedrec.models import MatrixFactorization, PFedRec
from fedrec.models.base import Batch
from fedrec.models.module import ModelParams
from fedrec.training.clients import train_clients
from fedrec.training.plan import plan_training
from tests.planted import initial_state, method_of, rates, shard_of

SHARD = shard_of(6, [[1, 4]])


def test_one_step_is_the_gradient_written_out() -> None:
    train = {"optimizers": rates(0.5, {"name": "sgd", "lr": 0.2}), "negatives": 1}
    model = PFedRec(embedding_dim=3, init_std=1.0, head_std=1.0)
    method = method_of(train, model=model, dtype="float64")
    params, local = initial_state(method, SHARD)
    local = {"head": local["head"].astype(np.float64), "bias": np.array([0.3])}
    update, after = train_clients(method, SHARD, params, local, 1)

    (epoch,) = plan_training(method, SHARD, 1).epochs
    asked = np.concatenate([epoch.draws.items, epoch.draws.negatives.ravel()])
    table, head = params["item"].astype(np.float64), local["head"][0]
    error = np.zeros(6)
    for place, item in enumerate(asked):
        label = 1.0 if place < 2 else 0.0
        error[item] += 1 / (1 + np.exp(-(table[item] @ head + 0.3))) - label
    block = update.tables["item"]
    np.testing.assert_allclose(block.values, -0.5 * np.outer(error, head)[block.ids], atol=1e-12)
    np.testing.assert_allclose(after["head"][0], head - 0.2 * error @ table, atol=1e-12)
    np.testing.assert_allclose(after["bias"][0], 0.3 - 0.2 * error.sum(), atol=1e-12)


def test_features_times_head_and_bias_are_the_score() -> None:
    model = PFedRec(embedding_dim=2)
    vectors = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    head = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    params = ModelParams({"item": vectors, "head": head, "bias": torch.tensor([0.5, 0.5])})
    batch = Batch(torch.tensor([0, 0]), torch.tensor([0, 1]))
    features = model.features(params, batch, vectors)
    assert features.tolist() == [[1.0, 2.0, 1.0], [0.0, -1.0, 1.0]]
    whole = torch.tensor([3.0, 4.0, 0.5])
    scores = model.score(params, batch, vectors)
    assert scores.tolist() == (features @ whole).tolist() == [11.5, -3.5]


def test_without_bias_it_ranks_as_matrix_factorisation() -> None:
    shard = shard_of(6, [[1, 4], [2]])
    params, local = initial_state(method_of(model=PFedRec(embedding_dim=4, init_std=0.5)), shard)
    rows = np.arange(2)
    own = UserScorer(
        method_of(model=PFedRec(embedding_dim=4)), shard, params, {**local, "bias": np.zeros(2)}
    )
    plain = UserScorer(
        method_of(model=MatrixFactorization(embedding_dim=4)),
        shard,
        params,
        {"user": local["head"]},
    )
    assert torch.equal(own(rows)["mixed"], plain(rows)["mixed"])
    shifted = UserScorer(
        method_of(model=PFedRec(embedding_dim=4)), shard, params, {**local, "bias": np.ones(2)}
    )
    assert torch.equal(shifted(rows)["mixed"], plain(rows)["mixed"] + 1)
