"""What every multimodal model keeps, whatever its formula."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedrec.errors import ConfigError
from fedrec.models.base import Batch
from fedrec.models.multimodal import CM3, VBPR, Gate, LateFusion, LIRDRec, MetaMMF
from fedrec.models.multimodal.base import Multimodal
from tests.unit.fedrec.models.multimodal.given import (
    catalogue_of,
    network_of,
    params_of,
    random_catalogue,
    scores_of,
)

SIZES = {"embedding_dim": 4}
MODELS = [
    VBPR(**SIZES, content_dim=3),
    LateFusion(**SIZES),
    LateFusion(**SIZES, weights="shared"),
    Gate(**SIZES),
    Gate(**SIZES, gate="user"),
    MetaMMF(**SIZES, layers=(6,)),
    MetaMMF(**SIZES, layers=(6,), form="full"),
    CM3(**SIZES, hidden_dim=5),
    LIRDRec(**SIZES, hidden_dim=5),
]
every_model = pytest.mark.parametrize(
    "model", MODELS, ids=lambda m: f"{type(m).__name__} {sorted(m.model_fields_set)}"
)


@every_model
def test_ranking_is_the_scores_of_all_pairs(model: Multimodal) -> None:
    catalogue, everything = random_catalogue(), np.arange(7)
    ranked = params_of(model, catalogue, everything, n_users=2)
    encoded = model.item_vectors(ranked, torch.arange(7))
    ranking = model.rank(ranked, Batch(torch.arange(2), torch.arange(7)), encoded)
    specs = model.params(catalogue)
    private = {n for n, spec in specs.items() if spec.axis == "user"}
    for user in range(2):
        rows = {n: ranked[n][user].expand(7, *specs[n].shape) for n in private}
        scores = scores_of(model, ranked.replaced(rows), everything)
        torch.testing.assert_close(ranking[user], scores, rtol=1e-9, atol=1e-9)


@every_model
def test_the_unit_of_features_does_not_matter(model: Multimodal) -> None:
    catalogue, items = random_catalogue(), np.arange(7)
    larger = replace(catalogue, features={n: 8 * v for n, v in catalogue.features.items()})
    scores = [scores_of(model, params_of(model, c, items), items) for c in (catalogue, larger)]
    torch.testing.assert_close(*scores, rtol=1e-5, atol=1e-5)


@every_model
def test_an_item_without_any_modality_has_a_finite_score_and_gradients(model: Multimodal) -> None:
    rng = np.random.default_rng(0)
    features = {"text": rng.normal(size=(7, 4)), "image": rng.normal(size=(7, 4))}
    present = {"text": np.arange(7) < 2, "image": np.arange(7) < 1}
    params = params_of(model, catalogue_of(features, present), [0, 1, 2])
    leaves = {n: v.requires_grad_() for n, v in params.items()}
    scores = scores_of(model, params, [0, 1, 2])
    gradients = torch.autograd.grad(scores.sum(), [*leaves.values()], allow_unused=True)
    assert scores.isfinite().all()
    assert all(g.isfinite().all() for g in gradients if g is not None)


@every_model
def test_clients_side_by_side_are_clients_alone(model: Multimodal) -> None:
    catalogue, items = random_catalogue(), np.array([0, 2, 5, 6])
    params = params_of(model, catalogue, items)
    network = network_of(model, catalogue)
    shared = [n for n, s in {**model.params(catalogue), **network.specs}.items() if s.axis is None]

    def loss(values: dict[str, torch.Tensor]) -> torch.Tensor:
        given = params.replaced(values)
        batch = Batch(
            torch.zeros(4, dtype=torch.int64),
            torch.tensor(items),
            torch.tensor([1.0, 1, 0, 0]).double(),
            torch.tensor([0.0, 0, 1, 2]).double(),
        )
        vectors = model.item_vectors(given, batch.items)
        if model.overrides("loss"):
            return model.loss(given, batch, vectors).sum()
        return torch.nn.functional.softplus(model.score(given, batch, vectors)).sum()

    generator = torch.Generator().manual_seed(0)
    clients = {
        n: v + 0.1 * torch.randn(3, *v.shape, generator=generator, dtype=v.dtype)
        for n, v in params.items()
        if n in shared
    }
    gradient: Callable[..., dict[str, torch.Tensor]] = torch.func.grad(loss)
    together = torch.func.vmap(gradient)(clients)
    for client in range(3):
        alone = gradient({n: v[client] for n, v in clients.items()})
        for name, value in alone.items():
            torch.testing.assert_close(together[name][client], value, rtol=1e-10, atol=1e-10)


def test_bad_features_are_named() -> None:
    model = VBPR(modalities=("text",))
    pictures = catalogue_of({"text": np.ones((3, 2))})
    pictures = replace(pictures, features={"text": np.ones((3, 2, 2), np.float32)})
    with pytest.raises(ConfigError, match=r"'text' has the shape \(2, 2\)"):
        model.params(pictures)
    with pytest.raises(ConfigError, match="no feature 'text'"):
        model.params(catalogue_of({"image": np.ones((3, 2))}))
    nobody = catalogue_of({"text": np.ones((3, 2))}, {"text": [False] * 3})
    with pytest.raises(ConfigError, match="no item has the feature 'text'"):
        model.build(nobody)
    with pytest.raises(ConfigError, match="different names"):
        VBPR(modalities=("text", "text"))
