"""Client models as a user would write them, and one that fails."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field

from fedrec.compute.operations import padded_mm, row_dot
from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Batch, Model
from fedrec.models.mf import MatrixFactorization
from fedrec.models.module import ModelParams
from fedrec.types import ParamSpec

__all__ = [
    "BiasedMF",
    "Canary",
    "CanaryWithHead",
    "Fussy",
    "ItemsAlone",
    "LoopMF",
    "Routed",
    "SmallNet",
    "SquaredErrors",
    "VmapNet",
    "Weighted",
]


class BiasedMF(Model):
    """Factors, an item bias, a client bias and one constant: every kind of parameter, flat."""

    embedding_dim: int = Field(4, ge=1)

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        d = (self.embedding_dim,)
        return {
            "item": ParamSpec("shared", "item", d, init_std=0.1),
            "item_bias": ParamSpec("shared", "item", ()),
            "constant": ParamSpec("shared", None, ()),
            "user": ParamSpec("private", "user", d, init_std=0.1),
            "client_bias": ParamSpec("private", "client", ()),
        }

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        biases = params["item_bias"] + params["client_bias"] + params["constant"]
        return row_dot(params["user"], vectors) + biases


class LoopMF(MatrixFactorization):
    """Matrix factorisation, one client at a time, with operations of any kind."""

    execution: ClassVar[Literal["flat", "vmap", "loop"]] = "loop"  # type: ignore[assignment]

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        return torch.einsum("qd,qd->q", params["user"], vectors)

    def rank(self, params: ModelParams, batch: Batch, encoded: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(params["user"], encoded)


class SmallNet(Model):
    """A small network over user and item vectors, one client at a time."""

    execution: ClassVar[Literal["flat", "vmap", "loop"]] = "loop"

    embedding_dim: int = Field(4, ge=1)
    hidden: int = Field(6, ge=1)

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        d, h = self.embedding_dim, self.hidden
        return {
            "item": ParamSpec("shared", "item", (d,), init_std=0.3),
            "user": ParamSpec("private", "user", (d,), init_std=0.3),
            "first": ParamSpec("shared", None, (h, 2 * d), init_std=0.3),
            "last": ParamSpec("shared", None, (h,), init_std=0.3),
            "shift": ParamSpec("private", "client", (h,)),
        }

    def features(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        both = torch.cat([params["user"], vectors], dim=1)
        return torch.tanh(torch.nn.functional.linear(both, params["first"], params["shift"]))

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        return self.features(params, batch, vectors) @ params["last"]


class VmapNet(SmallNet):
    """The small network for many clients at once; the catalogue by the default of `Model`."""

    execution: ClassVar[Literal["flat", "vmap", "loop"]] = "vmap"


class Routed(Model):
    """Two experts, chosen by the user's first number with Python's own `if`: nothing for vmap."""

    execution: ClassVar[Literal["flat", "vmap", "loop"]] = "loop"

    embedding_dim: int = Field(4, ge=1)

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        d = self.embedding_dim
        return {
            "item": ParamSpec("shared", "item", (d,), init_std=0.3),
            "user": ParamSpec("private", "user", (d,), init_std=0.3),
            "left": ParamSpec("shared", None, (d, d), init_std=0.5),
            "right": ParamSpec("shared", None, (d, d), init_std=0.5),
        }

    def features(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        rows = []
        for user, item in zip(params["user"], vectors, strict=True):
            expert = params["right"] if user[0].item() > 0 else params["left"]
            rows.append(torch.tanh(expert @ item))
        return torch.stack(rows)

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        return (self.features(params, batch, vectors) * params["user"]).sum(1)


class Weighted(Model):
    """Factors with a global weight per dimension: a dense parameter, flat."""

    embedding_dim: int = Field(4, ge=1)

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        d = (self.embedding_dim,)
        return {
            "item": ParamSpec("shared", "item", d, init_std=0.3),
            "user": ParamSpec("private", "user", d, init_std=0.3),
            "weight": ParamSpec("shared", None, d, init_value=1.0),
        }

    def features(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        return params["weight"] * vectors

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        return row_dot(params["user"], self.features(params, batch, vectors))


class ItemsAlone(Model):
    """One number per item and nothing of the user's own: popularity, learned."""

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        return {"item": ParamSpec("shared", "item", (1,))}

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        return vectors[:, 0]


class Canary(MatrixFactorization):
    """Matrix factorisation with one local value that no other place holds."""

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        mark = ParamSpec("private", "user", (), init_value=12345.678, trainable=False)
        return {**super().params(catalogue), "canary": mark}


class CanaryWithHead(Canary):
    """The same with a dense parameter that scores are multiplied with, dimension by dimension."""

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        head = ParamSpec("shared", None, (self.embedding_dim,), init_std=0.3, init_value=1.0)
        return {**super().params(catalogue), "head": head}

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        return row_dot(params["user"] * params["head"], vectors)

    def rank(self, params: ModelParams, batch: Batch, encoded: torch.Tensor) -> torch.Tensor:
        return padded_mm(params["user"] * params["head"], encoded.T)


class Fussy(MatrixFactorization):
    """Matrix factorisation that fails to train the users whose mark is ``target``."""

    target: float = 1e9
    how: Literal["raise", "nan"] = "raise"

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        mark = ParamSpec("private", "user", (), init_std=1.0, trainable=False)
        return {**super().params(catalogue), "mark": mark}

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        plain = super().score(params, batch, vectors)
        broken = (params["mark"] - self.target).abs() < 1e-6
        if self.how == "raise" and bool(broken.any()):
            raise RuntimeError("the model does not like\nthis user")
        return torch.where(broken, torch.full_like(plain, torch.nan), plain)


class SquaredErrors(MatrixFactorization):
    """Matrix factorisation with a loss of its own that is no sum over pairs."""

    sums_over_pairs: ClassVar[bool] = False

    def loss(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        assert batch.labels is not None
        return 0.01 * (self.score(params, batch, vectors) - batch.labels) ** 2
