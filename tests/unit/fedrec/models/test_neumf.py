"""NeuMF against torch's own layers."""

from typing import Literal

import pytest
import torch

from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError
from fedrec.models import NeuMF
from fedrec.models.base import Batch
from fedrec.models.module import ModelParams

D, LAYERS = 3, (5, 4)


class Published(torch.nn.Module):
    """As the paper draws it: four embeddings, a tower, one layer over both."""

    def __init__(self) -> None:
        super().__init__()
        self.gmf_user, self.gmf_item = (
            torch.nn.Embedding(7, D, dtype=torch.float64) for _ in range(2)
        )
        self.mlp_user, self.mlp_item = (
            torch.nn.Embedding(7, D, dtype=torch.float64) for _ in range(2)
        )
        layers: list[torch.nn.Module] = []
        width = 2 * D
        for size in LAYERS:
            layers += [torch.nn.Linear(width, size, dtype=torch.float64), torch.nn.ReLU()]
            width = size
        self.tower = torch.nn.Sequential(*layers)
        self.last = torch.nn.Linear(D + width, 1, dtype=torch.float64)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        product = self.gmf_user(users) * self.gmf_item(items)
        hidden = self.tower(torch.cat([self.mlp_user(users), self.mlp_item(items)], dim=1))
        score: torch.Tensor = self.last(torch.cat([product, hidden], dim=1)).squeeze(1)
        return score


def parameters(net: Published) -> ModelParams:
    """The same numbers under our names; tables whole."""
    params = {
        "item": torch.cat([net.gmf_item.weight, net.mlp_item.weight], dim=1),
        "user": torch.cat([net.gmf_user.weight, net.mlp_user.weight], dim=1),
        "last": net.last.weight[0],
        "last_bias": net.last.bias[0],
    }
    linear = [layer for layer in net.tower if isinstance(layer, torch.nn.Linear)]
    for number, layer in enumerate(linear):
        params |= {f"layer{number}": layer.weight, f"layer{number}_bias": layer.bias}
    return ModelParams(params)


def test_it_is_the_published_network_with_its_gradients() -> None:
    torch.manual_seed(0)
    net = Published()
    model = NeuMF(embedding_dim=D, layers=LAYERS)
    users, items = torch.tensor([0, 0, 3, 6, 2]), torch.tensor([1, 5, 1, 2, 0])
    expected = net(users, items)
    params = parameters(net)
    vectors = params["item"][items]
    own = params.replaced({"item": vectors, "user": params["user"][users]})
    score = model.score(own, Batch(users, items), vectors)
    torch.testing.assert_close(score, expected, rtol=1e-12, atol=1e-12)
    leaves = list(net.parameters())
    weights = torch.arange(1.0, 6.0, dtype=torch.float64)
    ours = torch.autograd.grad((score * weights).sum(), leaves, retain_graph=True)
    theirs = torch.autograd.grad((expected * weights).sum(), leaves)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_the_catalogue_is_every_pair() -> None:
    torch.manual_seed(1)
    net = Published()
    model = NeuMF(embedding_dim=D, layers=LAYERS)
    params = parameters(net)
    users = torch.tensor([4, 0])
    of_users = params.replaced({"user": params["user"][users]})
    scores = model.rank(of_users, Batch(torch.arange(2), torch.arange(7)), params["item"])
    every = [net(torch.full((7,), int(user)), torch.arange(7)) for user in users]
    torch.testing.assert_close(scores, torch.stack(every), rtol=1e-12, atol=1e-12)


def test_features_times_the_last_layer_are_the_score() -> None:
    torch.manual_seed(2)
    params = parameters(Published())
    arguments = params, Batch(torch.arange(7), torch.arange(7)), params["item"]
    model = NeuMF(embedding_dim=D, layers=LAYERS)
    features = model.features(*arguments)
    assert features.shape == (7, D + LAYERS[-1])
    torch.testing.assert_close(
        features @ params["last"] + params["last_bias"], model.score(*arguments)
    )


@pytest.mark.parametrize("head", ["shared", "private"])
def test_a_private_network_is_the_clients_own(head: Literal["shared", "private"]) -> None:
    specs = NeuMF(embedding_dim=D, layers=LAYERS, head=head).params(Catalogue.empty())
    network = {n: s for n, s in specs.items() if n not in ("item", "user")}
    assert len(network) == 6
    where = {(s.scope, s.axis) for s in network.values()}
    assert where == ({("shared", None)} if head == "shared" else {("private", "client")})
    assert specs["layer0"].shape == (5, 2 * D)
    assert specs["layer0"].init_std == pytest.approx((2 / 11) ** 0.5)


def test_layers_need_a_width() -> None:
    with pytest.raises(ConfigError, match=r"such as \[32, 16, 8\]"):
        NeuMF(layers=())
    with pytest.raises(ConfigError, match="widths from 1"):
        NeuMF(layers=(4, 0))
