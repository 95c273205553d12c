"""MetaMMF: the canonical form by hand, against the full one, and without features."""

import torch

from fedrec.models.multimodal import MetaMMF
from fedrec.models.multimodal.metammf import CPLayer, FullLayer
from tests.unit.fedrec.models.multimodal.given import network_of, random_catalogue


def layer_of(**values: torch.Tensor) -> CPLayer:
    width, rank = values["a"].shape
    layer = CPLayer(width, values["b"].shape[1], values["c"].shape[1], rank)
    with torch.no_grad():
        for name, value in values.items():
            getattr(layer, name).copy_(value)
    return layer


def test_the_canonical_form_by_hand() -> None:
    # T of the first number of z is e1 e1^T; a product of A and B first would give the identity.
    one = torch.eye(2)
    layer = layer_of(a=one, b=one, c=one, static=torch.zeros(2, 2))
    result = layer(torch.ones(1, 2), torch.tensor([[1.0, 0.0]]))
    assert torch.equal(result, torch.tensor([[1.0, 0.0]]))


def test_without_z_the_fusion_is_static() -> None:
    static, one = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.eye(2)
    layer, h = layer_of(a=one, b=one, c=one, static=static), torch.tensor([[1.0, -1.0]])
    assert torch.equal(layer(h, torch.zeros(1, 2)), h @ static)


def test_the_canonical_form_is_the_full_one_of_its_matrices() -> None:
    torch.manual_seed(0)
    cp, full = CPLayer(4, 3, 2, 5).double(), FullLayer(4, 3, 2).double()
    with torch.no_grad():
        full.static.copy_(cp.static)
        full.dynamic.copy_(torch.einsum("rs,ar,ro->sao", cp.c, cp.a, cp.b))
    h, z = torch.randn(6, 4).double(), torch.randn(6, 2).double()
    torch.testing.assert_close(cp(h, z), full(h, z))
    # And the full one is a matrix of each item.
    matrices = full.static + torch.einsum("qs,sao->qao", z, full.dynamic)
    torch.testing.assert_close(full(h, z), torch.einsum("qa,qao->qo", h, matrices))


def test_the_canonical_form_sends_fewer_numbers() -> None:
    catalogue = random_catalogue(9, {"text": 64, "image": 64})
    sizes = {}
    for form in ("full", "cp"):
        model = MetaMMF(embedding_dim=32, layers=(64,), form=form)
        specs = network_of(model, catalogue).specs
        sizes[form] = sum(spec.values.size for spec in specs.values() if spec.values is not None)
    static, meta = 128 * 64 + 64 * 32, 128 * 5 + 5
    assert sizes["full"] == meta + 6 * static
    assert sizes["cp"] == meta + static + 8 * (128 + 64 + 5) + 8 * (64 + 32 + 5)
