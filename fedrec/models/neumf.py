"""Neural collaborative filtering, federated: a product of vectors beside a perceptron."""

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Batch, Model
from fedrec.models.module import ModelParams
from fedrec.plugins import Defaults
from fedrec.types import ParamSpec


class NeuMF(Model):
    r"""Score :math:`s_{ui} = h \cdot [p_u \odot e_i;\; \mathrm{MLP}([p'_u; e'_i])] + b`.

    A row of the item table is :math:`[e_i; e'_i]`, so a personalization acts on both halves; the
    user's :math:`[p_u; p'_u]` never leaves the client. ``head: shared`` trains one network for
    all, as FedNCF does; ``head: private`` gives each client its own, which never leaves it. Here
    neither half is pre-trained.

    Args:
        embedding_dim: d, length of each of the four vectors; item rows have 2 d numbers.
        layers: widths of the perceptron's layers, ReLU after each.
        init_std: standard deviation of the normal initial values of the vectors. Weights of a
            layer from a to b numbers start with that of Glorot, sqrt(2 / (a + b)); biases from 0.
        head: who has the network.

    Reference: he2017neural; perifanis2022federated.
    """

    reference: ClassVar[str] = "he2017neural"
    execution = "vmap"
    defaults: ClassVar[Defaults] = {
        "strategy": {"name": "fedadam", "server_optimizer": {"name": "adam", "lr": 0.005}},
        "rounds": {"count": 400, "cohort_fraction": 0.5},
        "evaluate": {"every": 10},
    }

    embedding_dim: int = Field(128, ge=1)
    layers: tuple[int, ...] = (32, 16, 8)
    init_std: float = Field(0.01, ge=0)
    head: Literal["shared", "private"] = "shared"

    @field_validator("layers")
    @classmethod
    def _some(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 1:
            raise ValueError(f"expected widths from 1, such as [32, 16, 8], got {list(value)}")
        return value

    def build(self, catalogue: Catalogue) -> nn.Module:
        """Return the perceptron, ``tower``, and the last layer over it and the product."""
        widths = (2 * self.embedding_dim, *self.layers)
        layers = (each for a, b in pairwise(widths) for each in (nn.Linear(a, b), nn.ReLU()))
        last = nn.Linear(self.embedding_dim + widths[-1], 1)
        network = nn.ModuleDict({"tower": nn.Sequential(*layers), "last": last})
        for value in network.parameters():
            _ = nn.init.xavier_normal_(value) if value.dim() > 1 else nn.init.zeros_(value)
        return network

    def scope(self, name: str) -> Literal["shared", "private"]:
        """As ``head`` says."""
        return self.head

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        """``item`` and ``user`` [2 d]."""
        both, std = (2 * self.embedding_dim,), self.init_std
        return {
            "item": ParamSpec("shared", "item", both, init_std=std),
            "user": ParamSpec("private", "user", both, init_std=std),
        }

    def features(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """float [q, d + width of the last layer]: the input of the last linear layer."""
        d, user = self.embedding_dim, params["user"]
        hidden = params.module.tower(torch.cat([user[:, d:], vectors[:, d:]], dim=1))
        return torch.cat([user[:, :d] * vectors[:, :d], hidden], dim=1)

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """float [q]."""
        scores: Tensor = params.module.last(self.features(params, batch, vectors))
        return scores.squeeze(1)

    def rank(self, params: ModelParams, batch: Batch, encoded: Tensor) -> Tensor:
        """float [b, n_items]; what the first layer makes of users and of items is added up."""
        d, user = self.embedding_dim, params["user"]
        tower, last = params.module.tower, params.module.last
        first = tower[0].weight
        of_users = nn.functional.linear(user[:, d:], first[:, :d], tower[0].bias)
        of_items = nn.functional.linear(encoded[:, d:], first[:, d:])
        hidden = tower[1:](of_users.unsqueeze(1) + of_items)
        product = (user[:, :d] * last.weight[:, :d]) @ encoded[:, :d].T
        scores: Tensor = product + hidden @ last.weight[0, d:] + last.bias
        return scores
