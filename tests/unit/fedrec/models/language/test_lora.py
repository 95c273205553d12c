"""Adapters: what is trained, what they compute, and what their averages are."""

from pathlib import Path

import pytest
import torch

from fedrec.errors import ConfigError
from fedrec.models.language.lora import Adapters, adapt
from fedrec.models.language.weights import load
from tests.tiny_language_model import save_tiny_model

TOKENS = torch.tensor([[1, 5, 7, 12, 13]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("lora") / "tiny")


def test_only_b_of_the_last_layers_is_trained(folder: Path) -> None:
    model, _ = load(folder, "float32")
    before = model(TOKENS).logits
    adapt(model, Adapters(r=3, layers=1))
    trained = {n: v for n, v in model.named_parameters() if v.requires_grad}
    assert {
        n.removeprefix("model.layers.1.self_attn."): tuple(v.shape) for n, v in trained.items()
    } == {
        "q_proj.lora_B.default.weight": (64, 3),
        "v_proj.lora_B.default.weight": (32, 3),
    }
    assert all((value == 0).all() for value in trained.values())
    assert torch.equal(model(TOKENS).logits, before)


def test_an_adapter_is_the_scaled_product_added_to_the_weights(folder: Path) -> None:
    model, _ = load(folder, "float32")
    plain, _ = load(folder, "float32")
    adapt(model, Adapters(r=2, alpha=6, layers="all", targets=("q_proj", "down_proj")))
    parameters = dict(model.named_parameters())
    torch.manual_seed(1)
    for name, value in plain.named_parameters():
        stem = name.removesuffix(".weight")
        b = parameters.get(f"{stem}.lora_B.default.weight")
        assert (b is not None) == stem.endswith(("q_proj", "down_proj"))
        if b is not None:
            b.data.normal_()
            value.data += 3.0 * b @ parameters[f"{stem}.lora_A.default.weight"]
    assert torch.allclose(model(TOKENS).logits, plain(TOKENS).logits, atol=1e-5)


def test_a_is_drawn_from_the_seed(folder: Path) -> None:
    def drawn(seed: int) -> torch.Tensor:
        model, _ = load(folder, "float32")
        torch.manual_seed(seed)
        adapt(model, Adapters(layers=1))
        values: dict[str, torch.Tensor] = dict(model.named_parameters())
        return next(v for n, v in values.items() if "lora_A" in n)

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))


def test_the_average_of_both_factors_is_not_that_of_the_products() -> None:
    """B1 A1 = e1 e1', B2 A2 = e2 e2': their mean is diag(1/2, 1/2), that of the factors all 1/4."""
    a, b = torch.eye(2).unsqueeze(1), torch.eye(2).unsqueeze(2)
    assert torch.equal((b @ a).mean(0), torch.eye(2) / 2)
    assert torch.equal(b.mean(0) @ a.mean(0), torch.full((2, 2), 0.25))
    same = a[:1]
    assert torch.equal((b @ same).mean(0), b.mean(0) @ same[0])
    warned = Adapters(train="both").without_effect(None)
    assert len(warned) == 1
    assert "average of the products" in warned[0]
    assert Adapters().without_effect(None) == []


def test_where_adapters_cannot_be_is_refused(folder: Path) -> None:
    for adapters, text in (
        (Adapters(layers=3), "layers: 3 is more than the 2 layers"),
        (
            Adapters(layers="all", targets=("c_attn",)),
            r"no linear layer 'c_attn' \(known: .*q_proj",
        ),
    ):
        model, _ = load(folder, "float32")
        with pytest.raises(ConfigError, match=text):
            adapt(model, adapters)
