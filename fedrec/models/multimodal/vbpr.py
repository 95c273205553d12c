"""VBPR, federated: matrix factorisation beside a projection of the items' features."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Batch
from fedrec.models.module import ModelParams
from fedrec.models.multimodal.base import Multimodal, Projections
from fedrec.models.multimodal.blocks import dot
from fedrec.types import ParamSpec


class VBPR(Multimodal):
    r"""Score items by their rows and their features, each with a vector of the user.

    .. math:: s_{ui} = b_u + \beta_i + p_u \cdot e_i + (\theta_u + \theta) \cdot W f_i

    :math:`f_i` are the item's features side by side. :math:`p_u`, :math:`\theta_u` and
    :math:`b_u` never leave their client; :math:`\theta` is shared, and gives the bias
    :math:`\beta' \cdot f_i` of the paper with :math:`\beta' = W^\top \theta`. The item vector is
    :math:`[e_i; W f_i]`; biases stand outside, so that a similarity of item vectors does not
    compare popularity.

    Departures: the paper's :math:`\beta'` is free and its global offset is part of :math:`b_u`;
    any loss can be trained, the paper's is ``train.loss: bpr``; its features are images alone.

    Args:
        content_dim: k, length of :math:`\theta_u`.

    Reference: he2016vbpr.
    """

    reference: ClassVar[str] = "he2016vbpr"
    content_dim: int = Field(32, ge=1)

    def build(self, catalogue: Catalogue) -> nn.Module:
        """Return the projection, in parts for the modalities."""
        return Projections(catalogue, self.modalities, self.content_dim)

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        """``item`` [d] and ``item_bias`` per item; ``user`` [d + k] and ``user_bias``."""
        d, k = self.embedding_dim, self.content_dim
        return {
            "item": ParamSpec("shared", "item", (d,), init_std=self.init_std),
            "item_bias": ParamSpec("shared", "item", ()),
            "content_bias": ParamSpec("shared", None, (k,)),
            "user": ParamSpec("private", "user", (d + k,), init_std=self.init_std),
            "user_bias": ParamSpec("private", "user", ()),
            **self.frozen(catalogue),
        }

    def item_vectors(self, params: ModelParams, items: Tensor) -> Tensor:
        """float [q, d + k]."""
        return torch.cat([params["item"], sum(self.content(params))], dim=-1)

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """float [q]."""
        products = dot(self._users(params), vectors)
        return products + params["item_bias"] + params["user_bias"]

    def rank(self, params: ModelParams, batch: Batch, encoded: Tensor) -> Tensor:
        """float [b, n_items]."""
        products = self._users(params) @ encoded.T
        return products + params["item_bias"] + params["user_bias"].unsqueeze(-1)

    def _users(self, params: ModelParams) -> Tensor:
        """Return the vectors of users with what is shared, float [..., d + k]."""
        shared = nn.functional.pad(params["content_bias"], (self.embedding_dim, 0))
        return params["user"] + shared
