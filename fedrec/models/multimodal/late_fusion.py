"""Late fusion, federated: each modality gives a score, and weights add them up."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Batch
from fedrec.models.module import ModelParams
from fedrec.models.multimodal.base import Multimodal, Projections
from fedrec.models.multimodal.blocks import dot, rank_blocks, score_blocks
from fedrec.types import ParamSpec


class LateFusion(Multimodal):
    r"""Score :math:`s_{ui} = p_u \cdot e_i + \sum_m \omega_m\, p_u^m \cdot W_m f_i^m`.

    :math:`\omega` is the softmax of a logit for each modality; where an item lacks one, the others
    share its weight. The item vector is :math:`[e_i; W_1 f_i^1; W_2 f_i^2; \dots]`. A baseline of
    `fedrec.models.multimodal.vbpr.VBPR`, which fuses before it scores. There is no graph of users
    and items: no client knows one.

    Args:
        weights: whose the logits are: ``private``, each user's, or ``shared`` by all.

    Reference: snoek2005early.
    """

    reference: ClassVar[str] = "snoek2005early"
    weights: Literal["private", "shared"] = "private"

    def build(self, catalogue: Catalogue) -> nn.Module:
        """Return a projection for each modality."""
        return Projections(catalogue, self.modalities, self.embedding_dim)

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        """``item`` [d] per item; ``user`` [(1 + m) d] per user; ``weights`` [m]."""
        d, m = self.embedding_dim, len(self.modalities)
        private = self.weights == "private"
        return {
            "item": ParamSpec("shared", "item", (d,), init_std=self.init_std),
            "user": ParamSpec("private", "user", ((1 + m) * d,), init_std=self.init_std),
            "weights": ParamSpec(
                "private" if private else "shared", "user" if private else None, (m,)
            ),
            **self.frozen(catalogue),
        }

    def item_vectors(self, params: ModelParams, items: Tensor) -> Tensor:
        """float [q, (1 + m) d]."""
        return torch.cat([params["item"], *self.content(params)], dim=-1)

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """float [q]."""
        d, user = self.embedding_dim, params["user"]
        of_ids = dot(user[:, :d], vectors[:, :d])
        return of_ids + score_blocks(
            user[:, d:], vectors[:, d:], params["weights"], self.present(params)
        )

    def rank(self, params: ModelParams, batch: Batch, encoded: Tensor) -> Tensor:
        """float [b, n_items]."""
        d, user = self.embedding_dim, params["user"]
        of_ids = user[:, :d] @ encoded[:, :d].T
        return of_ids + rank_blocks(
            user[:, d:], encoded[:, d:], params["weights"], self.present(params)
        )
