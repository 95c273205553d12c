"""Client models with item content and modules, as a user would write them."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Batch, Model
from fedrec.models.module import ModelParams
from fedrec.types import ParamSpec


class TwoLayers(Model):
    """A stock network over user and item vectors."""

    execution: ClassVar[Literal["flat", "vmap", "loop"]] = "vmap"
    width: int = 8

    def build(self, catalogue: Catalogue) -> nn.Module:
        return nn.Sequential(nn.Linear(2 * self.width, 16), nn.Tanh(), nn.Linear(16, 1))

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        vector = (self.width,)
        return {
            "item": ParamSpec("shared", "item", vector, init_std=0.3),
            "user": ParamSpec("private", "user", vector, init_std=0.3),
        }

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        scores: Tensor = params.module(torch.cat([params["user"], vectors], -1))
        return scores.squeeze(-1)


class DroppingLayers(TwoLayers):
    """The same with dropout."""

    def build(self, catalogue: Catalogue) -> nn.Module:
        layers = nn.Linear(2 * self.width, 16), nn.Tanh(), nn.Dropout(0.4), nn.Linear(16, 1)
        return nn.Sequential(*layers)


class Content(Model):
    """Factors beside a projected feature of the item."""

    execution: ClassVar[Literal["flat", "vmap", "loop"]] = "vmap"
    width: int = 6

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        d, f = self.width, catalogue.width("text")
        return {
            "item": ParamSpec("shared", "item", (d,), init_std=0.3),
            "text": ParamSpec("frozen", "item", (f,)),
            "projection": ParamSpec("shared", None, (d, f), init_std=f**-0.5),
            "user": ParamSpec("private", "user", (2 * d,), init_std=0.3),
        }

    def item_vectors(self, params: ModelParams, items: Tensor) -> Tensor:
        return torch.cat([params["item"], params["text"] @ params["projection"].T], -1)

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        return (params["user"] * vectors).sum(-1)

    def rank(self, params: ModelParams, batch: Batch, encoded: Tensor) -> Tensor:
        return params["user"] @ encoded.T


class TextAlone(Model):
    """Items from their text alone: no item table, so an item that nobody took has a vector."""

    execution: ClassVar[Literal["flat", "vmap", "loop"]] = "vmap"
    width: int = 6

    def build(self, catalogue: Catalogue) -> nn.Module:
        return nn.Sequential(nn.Linear(catalogue.width("text"), self.width), nn.Tanh())

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        return {
            "text": ParamSpec("frozen", "item", (catalogue.width("text"),)),
            "text.present": ParamSpec("frozen", "item", ()),
            "user": ParamSpec("private", "user", (self.width,), init_std=0.3),
        }

    def item_vectors(self, params: ModelParams, items: Tensor) -> Tensor:
        vectors: Tensor = params.module(params["text"])
        return vectors * params["text.present"].unsqueeze(-1)

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        return (params["user"] * vectors).sum(-1)


class OwnLoss(Content):
    """The same, trained by a loss of its own: squared errors."""

    def loss(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        assert batch.labels is not None and batch.counts is not None
        weight = (batch.labels + batch.counts) / 8
        return weight * (self.score(params, batch, vectors) - batch.labels) ** 2
