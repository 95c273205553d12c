"""LIRDRec, federated: item representations from features alone, weighted by each user."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Batch
from fedrec.models.module import ModelParams
from fedrec.models.multimodal.base import Multimodal, as_masks, two_layers
from fedrec.models.multimodal.blocks import as_blocks, rank_blocks, score_blocks
from fedrec.models.multimodal.sphere import unit
from fedrec.types import ParamSpec


class LIRDRec(Multimodal):
    r"""Score :math:`s_{ui} = \sum_b a_{ub}\, p_u^b \cdot x_i^b` with item vectors from features.

    An item has a block of length 1 for each modality, and one that all modalities give together;
    each is made by two layers. The weights of the blocks are
    :math:`a_u = \mathrm{softmax}(g(p_u) + \theta_u)`: g, two layers for each block, is shared and
    sets the weights of a user who has hardly trained, the private logits :math:`\theta_u` start at
    0 and take over as the client trains. That is the paper's progressive weight copying without
    its clock, which no client has who takes part in some rounds only.

    Departures: the released code applies softmax to weights that are already one, once an epoch,
    which levels what was learned; here logits remain logits, so without a gradient the weights
    stay. The discrete cosine transform before the shared block is left out: it is an orthogonal
    matrix before a dense layer, so the layer can be any that it was with it. There is no graph of
    users and items, since no client knows one, and no smoothing over similar items. There are no
    rows of items: without features an item scores 0.

    Args:
        hidden_dim: width between the two layers of a block; the paper's is 4 d.

    Reference: zhou2025lirdrec.
    """

    reference: ClassVar[str] = "zhou2025lirdrec"
    hidden_dim: int = Field(64, ge=1)

    def build(self, catalogue: Catalogue) -> nn.Module:
        """Return the encoders of the blocks."""
        return FeatureBlocks(catalogue, self.modalities, self.hidden_dim, self.embedding_dim)

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        """``user`` [b d] and ``weights`` [b] per user, for b blocks; the layers of g, shared."""
        d, blocks = self.embedding_dim, len(self.modalities) + 1
        quarter = max(d // 4, 1)
        return {
            "user": ParamSpec("private", "user", (blocks * d,), init_std=self.init_std),
            "weights": ParamSpec("private", "user", (blocks,)),
            "general_first": ParamSpec("shared", None, (blocks, d, quarter), init_std=d**-0.5),
            "general_last": ParamSpec("shared", None, (blocks, quarter), init_std=quarter**-0.5),
            **self.frozen(catalogue),
        }

    def item_vectors(self, params: ModelParams, items: Tensor) -> Tensor:
        """float [q, b d], blocks of length 1."""
        vectors: Tensor = self.content(params, self.present(params))
        return vectors

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """float [q]."""
        return score_blocks(
            params["user"], vectors, self.logits(params), self.present_blocks(params)
        )

    def rank(self, params: ModelParams, batch: Batch, encoded: Tensor) -> Tensor:
        """float [b, n_items]."""
        return rank_blocks(
            params["user"], encoded, self.logits(params), self.present_blocks(params)
        )

    def logits(self, params: ModelParams) -> Tensor:
        """Return what the softmax of the weights is taken of, float [..., b]."""
        users, last = params["user"], params["general_last"]
        blocks = as_blocks(users, len(last))
        hidden = torch.einsum("...bd,bdh->...bh", blocks, params["general_first"])
        general = (nn.functional.leaky_relu(hidden) * last).sum(-1)
        return general + params["weights"]


class FeatureBlocks(nn.Module):
    """Two layers for each modality, and for all of them side by side."""

    def __init__(
        self, catalogue: Catalogue, modalities: Sequence[str], hidden: int, width: int
    ) -> None:
        super().__init__()
        inputs = [*([name] for name in modalities), modalities]
        self.encoders = nn.ModuleList(
            two_layers(catalogue, names, hidden, width) for names in inputs
        )

    def forward(self, features: Sequence[Tensor], present: Tensor) -> Tensor:
        """float [..., f] per modality -> float [..., b d]."""
        inputs = [*features, torch.cat([*features], dim=-1)]
        masks = [*as_masks(present), present.amax(-1, keepdim=True)]
        blocks = zip(self.encoders, inputs, masks, strict=True)
        return torch.cat([unit(encoder(x)) * mask for encoder, x, mask in blocks], dim=-1)
