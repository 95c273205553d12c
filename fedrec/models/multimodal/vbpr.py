"""VBPR, federated: matrix factorisation beside a projection of the items' features."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Batch
from fedrec.models.module import ModelParams
from fedrec.models.multimodal.base import Content, Multimodal
from fedrec.types import ParamSpec


class VBPR(Multimodal):
    r"""Score items by their rows and their features, each with a vector of the user.

    .. math:: s_{ui} = b_u + \beta_i + p_u \cdot e_i + \theta_u \cdot W f_i + \beta' \cdot f_i

    :math:`f_i` are the item's features side by side. :math:`p_u`, :math:`\theta_u` and
    :math:`b_u` never leave their client. The item vector is :math:`[e_i; W f_i]`; the biases stand
    outside, so that a similarity of item vectors does not compare popularity.

    Departures: the paper's global offset is part of :math:`b_u`; any loss can be trained, the
    paper's is ``train.loss: bpr``; its features are images alone.

    Args:
        content_dim: k, length of :math:`\theta_u`.

    Reference: he2016vbpr.
    """

    reference: ClassVar[str] = "he2016vbpr"
    content_dim: int = Field(32, ge=1)

    def build(self, catalogue: Catalogue) -> nn.Module:
        """Return the projection and the bias of the features."""
        return Projection(catalogue, self.modalities, self.content_dim)

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        """``item`` [d] and ``item_bias`` per item; ``user`` [d + k] and ``user_bias``."""
        width = self.embedding_dim + self.content_dim
        return {
            "item": ParamSpec("shared", "item", (self.embedding_dim,), init_std=self.init_std),
            "item_bias": ParamSpec("shared", "item", ()),
            "user": ParamSpec("private", "user", (width,), init_std=self.init_std),
            "user_bias": ParamSpec("private", "user", ()),
            **self.frozen(catalogue),
        }

    def item_vectors(self, params: ModelParams, items: Tensor) -> Tensor:
        """float [q, d + k]."""
        return torch.cat([params["item"], self.content(params, "projection")], dim=-1)

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """float [q]."""
        bias = params["item_bias"] + self.content(params, "bias").squeeze(-1)
        return (params["user"] * vectors).sum(-1) + bias + params["user_bias"]

    def rank(self, params: ModelParams, batch: Batch, encoded: Tensor) -> Tensor:
        """float [b, n_items]."""
        bias = params["item_bias"] + self.content(params, "bias").squeeze(-1)
        return params["user"] @ encoded.T + bias + params["user_bias"].unsqueeze(-1)


class Projection(Content):
    """The two linear maps of all features side by side; the bias starts at 0."""

    def __init__(self, catalogue: Catalogue, modalities: Sequence[str], width: int) -> None:
        super().__init__(catalogue, modalities)
        self.projection = nn.Linear(sum(self.widths), width, bias=False)
        self.bias = nn.Linear(sum(self.widths), 1, bias=False)
        nn.init.zeros_(self.bias.weight)

    def forward(self, features: Sequence[Tensor], present: Tensor, name: str) -> Tensor:
        """float [..., f] per modality -> float [..., k], or [..., 1] for the bias."""
        result: Tensor = getattr(self, name)(torch.cat(self.scaled(features, present), dim=-1))
        return result
