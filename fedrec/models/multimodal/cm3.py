"""CM3, federated: features on a sphere, items spread the less the more alike they are."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Batch
from fedrec.models.module import ModelParams
from fedrec.models.multimodal.base import Multimodal, ScaledLinear, as_masks, two_layers
from fedrec.models.multimodal.blocks import as_blocks, dot
from fedrec.models.multimodal.sphere import CurvePoint, Draw, bezier, unit
from fedrec.types import ParamSpec


class CM3(Multimodal):
    r"""Score the cosine of user and item; train alignment and calibrated uniformity.

    An item has a block of length 1 for each modality, made by two layers, and one that fuses
    linear projections of them along the sphere (see `fedrec.models.multimodal.sphere.bezier`).
    A user has a vector for each block, weighted by a softmax of private logits. With unit vectors
    u and i, over the n positives of a client and the pairs of negatives that it drew,

    .. math::
        L = \sum_{i \in I_u} |u - i|^2 + \frac{n \gamma}{2}
            \log \operatorname{mean}_{j \ne k} e^{-2 (|j - k|^2 - 2 + 2 s_{jk})}

    where :math:`s_{jk}` is the cosine of the frozen features, between 0 and ``max_similarity``:
    items that look alike repel each other less.

    Departures from the paper and its code: uniformity of users is left out, since a client knows
    no other user, and its own distance to itself is 0; :math:`s` comes from the frozen features
    rather than from trained ones, which could lower the loss by growing alike; ranking uses the
    current vectors and the middle of the curve; there is no graph of users and items, and no
    smoothing over similar items. There are no rows of items: without features an item scores 0.

    Args:
        hidden_dim: width between the two layers of a block; the paper's is 4 d.
        gamma: weight of uniformity.
        max_similarity: upper limit of :math:`s`.
        curve: where on the curve an item is fused in training, see
            `fedrec.models.multimodal.sphere.CurvePoint`; ranking takes the middle.

    Reference: zhou2025cm3.
    """

    reference: ClassVar[str] = "zhou2025cm3"
    sums_over_pairs: ClassVar[bool] = False
    init_std: float = Field(0.1, gt=0)
    hidden_dim: int = Field(64, ge=1)
    gamma: float = Field(0.5, ge=0)
    max_similarity: float = Field(1.0, ge=0, le=1)
    curve: Draw = "arcsine"

    def without_effect(self, run: Any) -> list[str]:
        """Say that there is no curve, or no uniformity."""
        lines = super().without_effect(run)
        if len(self.modalities) == 1:
            lines += self.unused("one modality is not fused", "curve")
        if self.gamma == 0:
            lines += self.unused("gamma is 0", "max_similarity")
        return lines

    def build(self, catalogue: Catalogue) -> nn.Module:
        """Return the encoders of the blocks."""
        widths = self.hidden_dim, self.embedding_dim
        return SphereBlocks(catalogue, self.modalities, *widths, self.curve)

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        """``user`` [(m + 1) d] and ``weights`` [m + 1] per user."""
        blocks = len(self.modalities) + 1
        width = blocks * self.embedding_dim
        return {
            "user": ParamSpec("private", "user", (width,), init_std=self.init_std),
            "weights": ParamSpec("private", "user", (blocks,)),
            **self.frozen(catalogue),
        }

    def item_vectors(self, params: ModelParams, items: Tensor) -> Tensor:
        """float [q, (m + 1) d], blocks of length 1."""
        vectors: Tensor = self.content(params, self.present(params))
        return vectors

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """float [q]: the cosine over the blocks that the item has."""
        user, squares = self._users(params)
        length = (squares * self.present_blocks(params)).sum(-1)
        return dot(user, unit(vectors)) * inverse_root(length)

    def rank(self, params: ModelParams, batch: Batch, encoded: Tensor) -> Tensor:
        """float [b, n_items]."""
        user, squares = self._users(params)
        return (user @ unit(encoded).T) * inverse_root(squares @ self.present_blocks(params).T)

    def loss(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """float [q]: the alignment of each positive, and the negatives' shares of uniformity."""
        assert batch.labels is not None and batch.counts is not None
        real = torch.ones_like(vectors[:, 0]) if batch.real is None else batch.real.to(vectors)
        labels, drawn = batch.labels * real, batch.counts * real
        alignment = labels * (2 - 2 * self.score(params, batch, vectors))
        similarity = self.similarity(params)
        uniformity = calibrated_uniformity(unit(vectors), similarity, drawn)
        shares = drawn / drawn.sum().clamp_min(1)
        return alignment + 0.5 * self.gamma * labels.sum() * uniformity * shares

    def similarity(self, params: ModelParams) -> Tensor:
        """Return the cosine of the frozen features that both items have, float [q, q]."""
        present = self.present(params)
        rows = [
            unit(params[name]) * mask
            for name, mask in zip(self.modalities, as_masks(present), strict=True)
        ]
        joined = torch.cat(rows, dim=-1)
        both = (present @ present.T).clamp_min(1)
        return (joined @ joined.T / both).clamp(0, self.max_similarity)

    def _users(self, params: ModelParams) -> tuple[Tensor, Tensor]:
        """Return the weighted vectors of users, float [..., (m + 1) d], and each block's square."""
        weights = torch.softmax(params["weights"], dim=-1)
        blocks = as_blocks(params["user"], weights.shape[-1]) * weights.unsqueeze(-1)
        return blocks.flatten(-2), blocks.square().sum(-1)


def calibrated_uniformity(vectors: Tensor, similarity: Tensor, weights: Tensor) -> Tensor:
    """Return the logarithm of the mean repulsion of different items, float [].

    Args:
        vectors: float [q, d], of length 1.
        similarity: float [q, q], from 0 to 1.
        weights: float [q], how often an item counts; 0 where fewer than two items do.
    """
    oneself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    # -2 (|j - k|^2 - 2 + 2 s) is 4 (j . k - s); what is infinitely alike adds nothing.
    apart = similarity.masked_fill(oneself, math.inf)
    repulsion = weights @ (torch.exp(4 * (vectors @ vectors.T - apart)) @ weights)
    pairs = weights.sum().square() - weights.square().sum()
    mean = repulsion / pairs.clamp_min(1)
    return torch.log(torch.where(pairs > 0, mean, torch.ones_like(mean)))


def inverse_root(squares: Tensor) -> Tensor:
    """Return one over a length, finite for 0."""
    return torch.rsqrt(squares + 1e-12)


class SphereBlocks(nn.Module):
    """Two layers for each modality, and a linear projection of each for the fused block."""

    def __init__(
        self,
        catalogue: Catalogue,
        modalities: Sequence[str],
        hidden: int,
        width: int,
        curve: Draw,
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(
            two_layers(catalogue, [name], hidden, width) for name in modalities
        )
        self.fused = nn.ModuleList(ScaledLinear(catalogue, [name], width) for name in modalities)
        self.curve = CurvePoint(curve)

    def forward(self, features: Sequence[Tensor], present: Tensor) -> Tensor:
        """float [..., f] per modality -> float [..., (m + 1) d]."""
        masks = as_masks(present)
        blocks = [unit(f(x)) * m for f, x, m in zip(self.encoders, features, masks, strict=True)]
        points = [unit(f(x)) * m for f, x, m in zip(self.fused, features, masks, strict=True)]
        fused = bezier(points, masks, self.curve(masks[0]))
        return torch.cat([*blocks, fused], dim=-1)
