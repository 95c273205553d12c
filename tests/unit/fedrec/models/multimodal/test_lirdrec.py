"""LIRDRec: weights by hand, blocks, and the transform that is left out."""

import numpy as np
import torch
from scipy.fft import dct

from fedrec.models.multimodal import LIRDRec
from tests.unit.fedrec.models.multimodal.given import params_of, random_catalogue, scores_of


def test_weights_are_a_softmax_of_the_private_logits_and_stay() -> None:
    model, catalogue = LIRDRec(embedding_dim=4), random_catalogue()
    private = {"weights": [[2.0, 0.0, -1.0]], "user": np.zeros((1, 12))}
    params = params_of(model, catalogue, [5], private)
    weights = torch.softmax(model.logits(params), dim=-1)
    expected = torch.tensor([[0.8438, 0.1142, 0.0420]], dtype=torch.float64)
    torch.testing.assert_close(weights, expected, atol=1e-4, rtol=0)
    # The logarithm of weights is logits of the same weights; the weights themselves would be
    # (.52, .25, .23) as logits, and after two rounds more nearly equal.
    again = params_of(model, catalogue, [5], {**private, "weights": weights.log().numpy()})
    torch.testing.assert_close(torch.softmax(model.logits(again), dim=-1), weights)


def test_a_score_is_the_weighted_sum_over_the_blocks_of_the_item() -> None:
    model, catalogue = LIRDRec(embedding_dim=2, hidden_dim=3), random_catalogue()
    # Item 5 has text and image, item 1 no image.
    assert not catalogue.present["image"][1] and catalogue.present["text"][[1, 5]].all()
    params = params_of(model, catalogue, [5, 1], {"weights": np.log([[1.0, 2, 3]] * 2)})
    params["general_last"].zero_()
    items = torch.tensor([5, 1])
    blocks = model.item_vectors(params, items).reshape(-1, 3, 2)
    torch.testing.assert_close(
        blocks.norm(dim=-1), torch.tensor([[1.0, 1, 1], [1, 0, 1]]).double(), atol=1e-6, rtol=0
    )
    products = (params["user"].reshape(-1, 3, 2) * blocks).sum(-1)
    weights = torch.tensor([[1 / 6, 2 / 6, 3 / 6], [1 / 4, 0, 3 / 4]], dtype=torch.float64)
    torch.testing.assert_close(scores_of(model, params, items), (weights * products).sum(1))


def test_a_cosine_transform_before_a_dense_layer_adds_nothing() -> None:
    # A layer W of transformed features is the layer W C of the features, and C is orthogonal.
    rng = np.random.default_rng(0)
    features, weight = rng.normal(size=(5, 8)), rng.normal(size=(3, 8))
    matrix = dct(np.eye(8), norm="ortho", axis=0)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(8), atol=1e-12)
    transformed = dct(features, norm="ortho", axis=1)
    np.testing.assert_allclose(transformed @ weight.T, features @ (weight @ matrix).T)
