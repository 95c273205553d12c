"""Neural collaborative filtering, federated: a product of vectors beside a perceptron."""

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from fedrec.compute.batch import Tensors
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
        "strategy": {"name": "fedadam", "average": "sum", "server_lr": 0.005},
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

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        """``item`` and ``user`` [2 d]; the network, global or one per client."""
        both = (2 * self.embedding_dim,)
        specs = {
            "item": ParamSpec("shared", "item", both, init_std=self.init_std),
            "user": ParamSpec("private", "user", both, init_std=self.init_std),
        }
        for number, (before, after) in enumerate(pairwise((*both, *self.layers))):
            std = (2 / (before + after)) ** 0.5
            specs[f"layer{number}"] = self._network((after, before), std)
            specs[f"layer{number}_bias"] = self._network((after,), 0.0)
        width = self.embedding_dim + self.layers[-1]
        specs["last"] = self._network((width,), (2 / (width + 1)) ** 0.5)
        specs["last_bias"] = self._network((), 0.0)
        return specs

    def _network(self, shape: tuple[int, ...], std: float) -> ParamSpec:
        if self.head == "private":
            return ParamSpec("private", "client", shape, init_std=std)
        return ParamSpec("shared", None, shape, init_std=std)

    def features(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """float [q, d + width of the last layer]: the input of the last linear layer."""
        d = self.embedding_dim
        user, item = params["user"], vectors
        weight = params["layer0"]
        first = user[:, d:] @ weight[:, :d].T + item[:, d:] @ weight[:, d:].T
        hidden = self._deeper(first + params["layer0_bias"], params)
        return torch.cat([user[:, :d] * item[:, :d], hidden], dim=1)

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """float [q]."""
        return self.features(params, batch, vectors) @ params["last"] + params["last_bias"]

    def rank(self, params: ModelParams, batch: Batch, encoded: Tensor) -> Tensor:
        """float [b, n_items]; what the first layer makes of users and of items is added up."""
        d = self.embedding_dim
        user, weight = params["user"], params["layer0"]
        of_users = user[:, d:] @ weight[:, :d].T + params["layer0_bias"]
        of_items = encoded[:, d:] @ weight[:, d:].T
        hidden = self._deeper(of_users.unsqueeze(1) + of_items, params)
        product = (user[:, :d] * params["last"][:d]) @ encoded[:, :d].T
        return product + hidden @ params["last"][d:] + params["last_bias"]

    def _deeper(self, first: Tensor, params: Tensors) -> Tensor:
        """float [..., width of the last layer]: what follows the first layer's sums."""
        hidden = torch.relu(first)
        for number in range(1, len(self.layers)):
            linear = hidden @ params[f"layer{number}"].T + params[f"layer{number}_bias"]
            hidden = torch.relu(linear)
        return hidden
