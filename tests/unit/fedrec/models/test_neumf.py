"""NeuMF against torch's own layers."""

from typing import Literal

import pytest
import torch

from fedrec.errors import ConfigError
from fedrec.models import NeuMF
from fedrec.models.base import Batch
from fedrec.models.module import ModelParams
from tests.planted import initial_state, method_of, shard_of, with_module

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
    """The same numbers as ours; tables whole."""
    tables = {
        "item": torch.cat([net.gmf_item.weight, net.mlp_item.weight], dim=1),
        "user": torch.cat([net.gmf_user.weight, net.mlp_user.weight], dim=1),
    }
    layers = {n: v for n, v in net.named_parameters() if n.startswith(("tower", "last"))}
    return with_module(NeuMF(embedding_dim=D, layers=LAYERS), tables | layers)


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
    last = features @ params["last.weight"][0] + params["last.bias"]
    torch.testing.assert_close(last, model.score(*arguments))


@pytest.mark.parametrize("head", ["shared", "private"])
def test_a_private_network_is_the_clients_own(head: Literal["shared", "private"]) -> None:
    task = method_of(model=NeuMF(embedding_dim=D, layers=LAYERS, head=head))
    network = {n: s for n, s in task.specs().items() if n not in ("item", "user")}
    assert len(network) == 6
    where = {(s.scope, s.axis) for s in network.values()}
    assert where == ({("shared", None)} if head == "shared" else {("private", "client")})
    assert set(task.shared_specs()) == {"item"} | (set(network) if head == "shared" else set())


def test_weights_start_as_glorot_says_and_biases_from_0() -> None:
    task = method_of(model=NeuMF(embedding_dim=64, layers=(32, 16)))
    params = task.initial_globals(3)
    assert params["tower.0.weight"].std() == pytest.approx((2 / 160) ** 0.5, rel=0.05)
    assert params["tower.2.weight"].std() == pytest.approx((2 / 48) ** 0.5, rel=0.1)
    assert not any(value.any() for name, value in params.items() if name.endswith("bias"))


def test_a_private_network_starts_from_what_the_server_built() -> None:
    task = method_of(model=NeuMF(embedding_dim=D, layers=LAYERS, head="private"))
    _, local = initial_state(task, shard_of(9, [[1, 2], [3], [4]]))
    for name in ("tower.0.weight", "last.bias"):
        assert len(local[name]) == 3
        assert (local[name] == local[name][0]).all()


def test_layers_need_a_width() -> None:
    with pytest.raises(ConfigError, match=r"such as \[32, 16, 8\]"):
        NeuMF(layers=())
    with pytest.raises(ConfigError, match="widths from 1"):
        NeuMF(layers=(4, 0))
