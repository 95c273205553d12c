"""CM3: points of the curve, pairs of items and scores, by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedrec.models.multimodal import CM3
from fedrec.models.multimodal.cm3 import calibrated_uniformity
from fedrec.models.multimodal.sphere import bezier, unit
from tests.unit.fedrec.models.multimodal.given import (
    catalogue_of,
    network_of,
    pairs_of,
    params_of,
    random_catalogue,
)

ONE, HALF = torch.ones(1), torch.tensor([0.5])
X, Y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def test_points_of_the_curve_by_hand() -> None:
    middle = torch.tensor([0.5**0.5, 0.5**0.5])
    torch.testing.assert_close(bezier([X, Y], [ONE, ONE], HALF), middle)
    # A third of the right angle from y, two thirds from x.
    third = torch.tensor([math.sin(math.pi / 6), math.cos(math.pi / 6)])
    torch.testing.assert_close(bezier([X, Y], [ONE, ONE], torch.tensor([1 / 3])), third)
    # Of x, y, x: the middle of two middles, which are the same.
    torch.testing.assert_close(bezier([X, Y, X], [ONE] * 3, HALF), middle)


def test_a_missing_point_leaves_the_others() -> None:
    none, absent = torch.zeros(2), torch.zeros(1)
    assert torch.equal(bezier([none, Y], [absent, ONE], HALF), Y)
    assert torch.equal(bezier([none, none], [absent, absent], HALF), none)
    between = bezier([X, none, Y], [ONE, absent, ONE], HALF)
    torch.testing.assert_close(between, bezier([X, Y], [ONE, ONE], HALF))


def test_equal_and_opposite_points_stay_finite() -> None:
    for other in (X, -X):
        b = other.clone().requires_grad_()
        point = bezier([X, b], [ONE, ONE], HALF)
        (gradient,) = torch.autograd.grad(point.sum(), b)
        assert point.isfinite().all() and gradient.isfinite().all()
    torch.testing.assert_close(bezier([X, X], [ONE, ONE], HALF), X, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("curve", "variance"), [("uniform", 1 / 12), ("arcsine", 1 / 8)])
def test_places_on_the_curve_are_drawn_in_training_alone(curve: str, variance: float) -> None:
    catalogue = random_catalogue()
    model = CM3.model_validate({"embedding_dim": 3, "curve": curve})
    network = network_of(model, catalogue)
    point = network.module.get_submodule("curve")
    like = torch.zeros(20000, 1)
    torch.testing.assert_close(point(like), like + 0.5)
    network.draws.key = torch.tensor(7)
    drawn = point(like)
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.01)
    assert drawn.var().item() == pytest.approx(variance, abs=0.002)
    assert torch.equal(drawn, point(like))
    network.draws.key = torch.tensor(8)
    assert not torch.equal(drawn, point(like))


@pytest.mark.parametrize(("similarity", "expected"), [(0.0, 0.0), (0.5, -2.0), (1.0, -4.0)])
def test_orthogonal_items_repel_less_if_they_look_alike(similarity: float, expected: float) -> None:
    alike = torch.full((2, 2), similarity)
    value = calibrated_uniformity(torch.eye(2), alike, torch.ones(2))
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_one_item_repels_nothing_and_weights_are_repetitions() -> None:
    vectors, alike = unit(torch.tensor([[1.0, 2.0], [0.0, 1.0], [-1.0, 1.0]])), torch.zeros(3, 3)
    assert calibrated_uniformity(vectors, alike, torch.tensor([0.0, 5.0, 0.0])).item() == 0
    # An item drawn twice counts twice; the pair of its two draws does not.
    pairs = [(0, 1), (0, 1), (0, 2), (0, 2), (1, 2)]
    terms = [math.exp(-2 * (2 - 2 * (vectors[j] @ vectors[k]).item() - 2)) for j, k in pairs]
    pairs = [(0, 1), (0, 2), (1, 2)]
    of = dict(zip([(0, 1), (0, 1, 1), (0, 2), (0, 2, 1), (1, 2)], terms, strict=True))
    expected = (2 * of[0, 1] + 2 * of[0, 2] + of[1, 2]) / 5
    value = calibrated_uniformity(vectors, alike, torch.tensor([2.0, 1.0, 1.0]))
    assert value.exp().item() == pytest.approx(expected, rel=1e-5)


def test_the_similarity_is_of_features_that_both_have() -> None:
    # Cosines: text of 0 and 1 is 0, image 1; item 2 has no image, its text equals that of 0.
    catalogue = catalogue_of(
        {"text": [[1, 0], [0, 2], [3, 0]], "image": [[1, 1], [2, 2], [1, 1]]},
        {"image": [True, True, False]},
    )
    model = CM3(embedding_dim=2)
    similarity = model.similarity(params_of(model, catalogue, [0, 1, 2]))
    expected = torch.tensor([[1, 0.5, 1], [0.5, 1, 0], [1, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(similarity, expected, atol=1e-6, rtol=0)
    capped = CM3(embedding_dim=2, max_similarity=0.8)
    largest = capped.similarity(params_of(model, catalogue, [0, 1, 2])).max().item()
    assert largest == pytest.approx(0.8)


def test_blocks_have_length_one_or_are_missing() -> None:
    model, catalogue = CM3(embedding_dim=4), random_catalogue()
    items = torch.arange(7)
    blocks = model.item_vectors(params_of(model, catalogue, items), items).reshape(-1, 3, 4)
    present = [catalogue.present["text"], catalogue.present["image"], np.ones(7)]
    expected = torch.tensor(np.stack(present, 1), dtype=torch.float64)
    torch.testing.assert_close(blocks.norm(dim=-1), expected, atol=1e-5, rtol=0)


def test_scores_are_cosines_over_the_blocks_that_an_item_has() -> None:
    model = CM3(embedding_dim=1)
    catalogue = catalogue_of(
        {"text": [[1.0], [1.0]], "image": [[1.0], [1.0]]}, {"image": [True, False]}
    )
    values = {"user": [[3.0, 4.0, 0.0]] * 2, "weights": np.zeros((2, 3))}
    params = params_of(model, catalogue, [0, 1], values)
    vectors = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    scores = model.score(params, pairs_of([0, 1]), vectors)
    torch.testing.assert_close(scores, torch.tensor([0.6, 1.0], dtype=torch.float64))


def test_the_loss_of_pairs_adds_up_to_the_formula_without_filling() -> None:
    model, catalogue = CM3(embedding_dim=3, gamma=0.7), random_catalogue()
    items = torch.tensor([0, 1, 4, 5, 5])
    labels, counts = torch.tensor([1.0, 1, 0, 0, 0]), torch.tensor([0.0, 0, 2, 1, 1])
    real = torch.tensor([True, True, True, True, False])
    user = np.repeat(np.random.default_rng(3).normal(size=(1, 9)), 5, 0)
    values = {"user": user, "weights": np.zeros((5, 3))}
    params = params_of(model, catalogue, items, values)
    batch = replace(pairs_of(items), labels=labels.double(), counts=counts.double(), real=real)
    vectors = model.item_vectors(params, items)
    scores = model.score(params, batch, vectors)
    uniformity = calibrated_uniformity(
        unit(vectors[2:4]), model.similarity(params)[2:4, 2:4], torch.tensor([2.0, 1.0]).double()
    )
    expected = (2 - 2 * scores[:2]).sum() + 0.5 * 0.7 * 2 * uniformity
    losses = model.loss(params, batch, vectors)
    torch.testing.assert_close(losses[real].sum(), expected)
