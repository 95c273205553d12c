"""VBPR: values by hand, the form of its gradient, and what it is without features."""

import numpy as np
import pytest
import torch

from fedrec.models.mf import MatrixFactorization
from fedrec.models.multimodal import VBPR
from tests.unit.fedrec.models.multimodal.given import (
    catalogue_of,
    pairs_of,
    params_of,
    random_catalogue,
    scores_of,
)


def test_a_score_by_hand() -> None:
    # p.e = 2, theta.f = 1 - 2, the item's bias .5, beta'.f = .1.
    model = VBPR(modalities=("text",), embedding_dim=2, content_dim=2)
    catalogue = catalogue_of({"text": [[1.0, 2.0]] * 3})
    length = 5**0.5  # The features are scaled to a mean length of 1.
    values = {
        "item": [[2.0, 1.0]],
        "item_bias": [0.5],
        "user": [[1.0, 0.0, 1.0, -1.0]],
        "user_bias": [0.0],
        "maps.0.weight": length * np.eye(2),
        "content_bias": [0.1, 0.0],
    }
    score = scores_of(model, params_of(model, catalogue, [0], values), [0])
    assert score.item() == pytest.approx(1.6, abs=1e-6)


def test_one_pair_moves_the_projection_by_a_matrix_of_rank_one() -> None:
    model, catalogue = VBPR(embedding_dim=3, content_dim=4), random_catalogue()
    params = params_of(model, catalogue, [2])
    weight = params["maps.0.weight"].requires_grad_()
    (gradient,) = torch.autograd.grad(scores_of(model, params, [2]).sum(), weight)
    assert torch.linalg.matrix_rank(gradient) == 1


def test_without_content_and_biases_it_is_matrix_factorisation() -> None:
    model, catalogue = VBPR(embedding_dim=3, content_dim=4), random_catalogue()
    items, user = [0, 3, 5], np.random.default_rng(2).normal(size=(3, 7))
    user[:, 3:] = 0
    zero = {"item_bias": np.zeros(7), "user_bias": np.zeros(3), "content_bias": np.zeros(4)}
    params = params_of(model, catalogue, items, {"user": user, **zero})
    base = MatrixFactorization(embedding_dim=3)
    rows = {"item": params["item"], "user": params["user"][:, :3]}
    expected = base.score(type(params)(rows), pairs_of(items), params["item"])
    assert torch.equal(scores_of(model, params, items), expected)
