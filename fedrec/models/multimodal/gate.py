"""Gated fusion, federated: weights of the modalities for each item, or for each user."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Batch
from fedrec.models.module import ModelParams
from fedrec.models.multimodal.base import Multimodal, Projections, ScaledLinear, masked_softmax
from fedrec.models.multimodal.blocks import as_blocks, dot, rank_blocks, score_blocks
from fedrec.types import ParamSpec


class Gate(Multimodal):
    r"""Score :math:`s_{ui} = p_u \cdot (e_i + \sum_m g_m \odot W_m f_i^m)`.

    ``gate: item`` fuses in the item vector: :math:`g = \mathrm{softmax}_m (U [f_i; e_i] + c)`, a
    weight for each modality and dimension, with U and c shared by all. ``gate: user`` gives each
    user the logits of one weight for each modality, which never leave its client; the item vector
    is then :math:`[e_i; W_1 f_i^1; \dots]`. Where an item lacks a modality, the others share its
    weight. There is no graph of users and items: no client knows one.

    Departure from the paper's unit of two modalities: no tanh, softmax instead of a sigmoid, and
    the row of the item table beside the features.

    Args:
        gate: what the weights depend on.

    Reference: arevalo2017gated.
    """

    reference: ClassVar[str] = "arevalo2017gated"
    gate: Literal["item", "user"] = "item"

    def build(self, catalogue: Catalogue) -> nn.Module:
        """Return the projections, for ``gate: item`` with the gate."""
        if self.gate == "user":
            return Projections(catalogue, self.modalities, self.embedding_dim)
        return Gated(catalogue, self.modalities, self.embedding_dim)

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        """``item`` and ``user`` [d]; for ``gate: user`` ``weights`` [m] per user."""
        shape = (self.embedding_dim,)
        specs = {
            "item": ParamSpec("shared", "item", shape, init_std=self.init_std),
            "user": ParamSpec("private", "user", shape, init_std=self.init_std),
            **self.frozen(catalogue),
        }
        if self.gate == "user":
            specs["weights"] = ParamSpec("private", "user", (len(self.modalities),))
        return specs

    def item_vectors(self, params: ModelParams, items: Tensor) -> Tensor:
        """float [q, d]; for ``gate: user`` [q, (1 + m) d]."""
        if self.gate == "item":
            fused: Tensor = self.content(params, self.present(params), params["item"])
            return params["item"] + fused
        return torch.cat([params["item"], *self.content(params)], dim=-1)

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """float [q]."""
        d, user = self.embedding_dim, params["user"]
        score = dot(user, vectors[:, :d])
        if self.gate == "user":
            score = score + score_blocks(*self._of_user(params, vectors))
        return score

    def rank(self, params: ModelParams, batch: Batch, encoded: Tensor) -> Tensor:
        """float [b, n_items]."""
        d, user = self.embedding_dim, params["user"]
        scores = user @ encoded[:, :d].T
        if self.gate == "user":
            scores = scores + rank_blocks(*self._of_user(params, encoded))
        return scores

    def _of_user(self, params: ModelParams, vectors: Tensor) -> tuple[Tensor, ...]:
        """Return the arguments of functions of blocks; one user vector meets every modality."""
        users = params["user"].repeat(1, len(self.modalities))
        return users, vectors[:, self.embedding_dim :], params["weights"], self.present(params)


class Gated(nn.Module):
    """Projections and the gate of an item; the gate starts with equal weights."""

    def __init__(self, catalogue: Catalogue, modalities: Sequence[str], width: int) -> None:
        super().__init__()
        self.projections = Projections(catalogue, modalities, width)
        outputs = width * len(modalities)
        self.gate = ScaledLinear(catalogue, modalities, outputs, rows=width)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, features: Sequence[Tensor], present: Tensor, rows: Tensor) -> Tensor:
        """float [..., f] per modality, with rows of the item table [..., d] -> float [..., d]."""
        logits = self.gate(torch.cat([*features, rows], dim=-1))
        of_dimensions = as_blocks(logits, rows.shape[-1])
        weights = masked_softmax(of_dimensions, present.unsqueeze(-2)).transpose(-1, -2)
        return (weights * torch.stack(self.projections(features), dim=-2)).sum(-2)
