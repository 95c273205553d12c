"""Late fusion and gates: weights by hand, and a modality that is missing."""

import numpy as np
import pytest
import torch

from fedrec.models.multimodal import Gate, LateFusion
from fedrec.models.multimodal.base import masked_softmax
from tests.unit.fedrec.models.multimodal.given import (
    catalogue_of,
    pairs_of,
    params_of,
    random_catalogue,
    scores_of,
)


def test_equal_logits_give_the_mean_and_the_others_share_what_is_missing() -> None:
    present = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    weights = masked_softmax(torch.zeros(3), present)
    expected = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0.5, 0, 0.5], [0, 0, 0]])
    torch.testing.assert_close(weights, expected)
    # Logits log 1, log 2, log 3: without the second, 1 and 3 of 4 remain.
    logits = torch.log(torch.tensor([1.0, 2.0, 3.0]))
    expected = torch.tensor([[1 / 6, 1 / 3, 1 / 2], [0.25, 0, 0.75], [0, 0, 0]])
    torch.testing.assert_close(masked_softmax(logits, present), expected)


# Items with the text (3, 4) and the image (0, 2), of which the second lacks the image: with
# identities, text gives (.6, .8) and image (0, 1).
CATALOGUE = catalogue_of(
    {"text": [[3.0, 4.0]] * 9, "image": [[0.0, 2.0]] * 9}, {"image": np.arange(9) != 1}
)
IDENTITIES = {"maps.0.weight": np.eye(2), "maps.1.weight": np.eye(2)}


@pytest.mark.parametrize("shared", [True, False])
def test_late_fusion_by_hand(shared: bool) -> None:
    model = LateFusion(embedding_dim=2, weights="shared" if shared else "private")
    logits = np.log([3.0, 1.0])
    values = {
        **IDENTITIES,
        "item": [[1.0, 2.0], [1.0, 2.0]],
        "user": [[1.0, 1.0, 5.0, 0.0, 0.0, 7.0]] * 2,
        "weights": logits if shared else [logits, logits],
    }
    params = params_of(model, CATALOGUE, [0, 1], values)
    # The ids give 3, the text 5 * .6 = 3, the image 7 * 1.
    expected = torch.tensor([3 + 0.75 * 3 + 0.25 * 7, 3 + 3], dtype=torch.float64)
    torch.testing.assert_close(scores_of(model, params, [0, 1]), expected, atol=1e-6, rtol=0)


def test_gates_of_users_by_hand() -> None:
    model = Gate(embedding_dim=2, gate="user")
    values = {
        **IDENTITIES,
        "item": [[1.0, 2.0], [1.0, 2.0]],
        "user": [[1.0, 1.0]] * 2,
        "weights": [np.log([3.0, 1.0])] * 2,
    }
    params = params_of(model, CATALOGUE, [0, 1], values)
    expected = torch.tensor([3 + 0.75 * 1.4 + 0.25 * 1, 3 + 1.4], dtype=torch.float64)
    torch.testing.assert_close(scores_of(model, params, [0, 1]), expected, atol=1e-6, rtol=0)


def test_gates_of_items_by_hand() -> None:
    # The gate looks at the first number of the item's row alone, which follows the features, and
    # gives it to the text of the first dimension; all other logits are 0.
    model = Gate(embedding_dim=2, gate="item")
    gate = np.zeros((4, 6))
    gate[0, 4] = 1.0
    values = {
        **{f"projections.{name}": value for name, value in IDENTITIES.items()},
        "gate.weight": gate,
        "gate.bias": np.zeros(4),
        "item": [[np.log(3.0), 0.0], [np.log(3.0), 0.0]],
    }
    params = params_of(model, CATALOGUE, [0, 1], values)
    vectors = model.item_vectors(params, pairs_of([0, 1]).items)
    first = [np.log(3.0) + 0.75 * 0.6, 0.5 * 0.8 + 0.5 * 1]
    expected = torch.tensor([first, [np.log(3.0) + 0.6, 0.8]], dtype=torch.float64)
    torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=0)


def test_a_gate_with_its_first_values_is_the_mean() -> None:
    model, catalogue = Gate(embedding_dim=4), random_catalogue()
    params = params_of(model, catalogue, [5], {"item": np.zeros((7, 4))})
    both = [
        params[f"projections.maps.{m}.weight"] @ params[n][0]
        for m, n in enumerate(("text", "image"))
    ]
    norms = [
        np.linalg.norm(catalogue.features[n][catalogue.present[n]], axis=1).mean()
        for n in ("text", "image")
    ]
    expected = (both[0] / norms[0] + both[1] / norms[1]) / 2
    vectors = model.item_vectors(params, torch.tensor([5]))
    torch.testing.assert_close(vectors[0], expected, atol=1e-6, rtol=1e-6)
