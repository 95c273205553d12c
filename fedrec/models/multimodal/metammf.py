"""MetaMMF, federated: the item's features produce the weights that fuse them."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Batch
from fedrec.models.module import ModelParams
from fedrec.models.multimodal.base import Multimodal, scale_of
from fedrec.models.multimodal.blocks import dot
from fedrec.types import ParamSpec

Form = Literal["full", "cp"]


class MetaMMF(Multimodal):
    r"""Score :math:`s_{ui} = p_u \cdot [e_i; h_L(f_i)]` with layers made for each item.

    .. math::
        z_i = Z f_i + c, \quad h_0 = f_i, \quad
        h_l = \mathrm{LeakyReLU}\Big(h_{l-1} \big(M_l + \sum_s z_{is} T_l^{(s)}\big)\Big)

    ``form: full`` has a matrix :math:`T^{(s)}` for each of the s numbers of z. ``form: cp`` is
    their canonical decomposition, :math:`T^{(s)}_{ao} = \sum_r C_{rs} A_{ar} B_{ro}`, computed as
    :math:`((h A) \odot (z C^\top)) B` without ever forming T: of a layer from a to b numbers,
    R (a + b + s) instead of s a b are sent. :math:`e_i` is the row of the item table.

    Departures: the network of z is one linear layer (the paper's has more parameters than the
    fusion); the released code of the decomposition multiplies A by B first, so that its matrices
    are all the same up to a factor, while this is the decomposition of the paper; there is no
    graph of users and items (the paper's second variant), since no client knows one.

    Args:
        layers: widths of the layers between the features and the last.
        content_dim: k, width of the last layer; None: ``embedding_dim``.
        meta_dim: s, numbers of z.
        form: of the layers.
        cp_rank: R, of the decomposition.

    Reference: liu2023dynamic.
    """

    reference: ClassVar[str] = "liu2023dynamic"
    layers: tuple[int, ...] = (64,)
    content_dim: int | None = Field(None, ge=1)
    meta_dim: int = Field(5, ge=1)
    form: Form = "cp"
    cp_rank: int = Field(8, ge=1)

    @field_validator("layers")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if value and min(value) < 1:
            raise ValueError(f"expected widths from 1, such as [64], got {list(value)}")
        return value

    def without_effect(self, run: Any) -> list[str]:
        """Say that the full form has no rank."""
        lines = super().without_effect(run)
        if self.form == "full":
            lines += self.unused("it belongs to form: cp", "cp_rank")
        return lines

    def build(self, catalogue: Catalogue) -> nn.Module:
        """Return the fusion."""
        widths = (*self.layers, self.content_dim or self.embedding_dim)
        return MetaFusion(
            catalogue, self.modalities, widths, self.meta_dim, self.form, self.cp_rank
        )

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        """``item`` [d] per item; ``user`` [d + k] per user."""
        d, k = self.embedding_dim, self.content_dim or self.embedding_dim
        return {
            "item": ParamSpec("shared", "item", (d,), init_std=self.init_std),
            "user": ParamSpec("private", "user", (d + k,), init_std=self.init_std),
            **self.frozen(catalogue),
        }

    def item_vectors(self, params: ModelParams, items: Tensor) -> Tensor:
        """float [q, d + k]."""
        return torch.cat([params["item"], self.content(params)], dim=-1)

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """float [q]."""
        return dot(params["user"], vectors)

    def rank(self, params: ModelParams, batch: Batch, encoded: Tensor) -> Tensor:
        """float [b, n_items]."""
        return params["user"] @ encoded.T


class MetaFusion(nn.Module):
    """The layers whose weights an item's features produce.

    Args:
        catalogue: The items.
        modalities: The names of the features.
        widths: Of the layers.
        meta_dim: Numbers of z.
        form: Of the layers.
        rank: Of the decomposition.
    """

    scale: Tensor

    def __init__(
        self,
        catalogue: Catalogue,
        modalities: Sequence[str],
        widths: Sequence[int],
        meta_dim: int,
        form: Form,
        rank: int,
    ) -> None:
        super().__init__()
        self.register_buffer("scale", scale_of(catalogue, modalities))
        sizes = [*pairwise((len(self.scale), *widths))]
        self.meta = nn.Linear(len(self.scale), meta_dim)
        made = [
            FullLayer(*size, meta_dim) if form == "full" else CPLayer(*size, meta_dim, rank)
            for size in sizes
        ]
        self.layers = nn.ModuleList(made)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """float [..., f] per modality -> float [..., width of the last layer]."""
        h = torch.cat([*features], dim=-1) * self.scale
        z = self.meta(h)
        for layer in self.layers:
            h = nn.functional.leaky_relu(layer(h, z))
        return h


class FullLayer(nn.Module):
    """A linear layer with a matrix for each number of z, and one beside them."""

    def __init__(self, width: int, after: int, meta_dim: int) -> None:
        super().__init__()
        self.static = nn.Parameter(torch.randn(width, after) * width**-0.5)
        self.dynamic = nn.Parameter(torch.randn(meta_dim, width, after) * width**-0.5)

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """float [..., width], float [..., s] -> float [..., after]."""
        # One product with z and h joined, so that no matrix of an item is formed.
        joined = (z.unsqueeze(-1) * h.unsqueeze(-2)).flatten(-2)
        return h @ self.static + joined @ self.dynamic.flatten(0, 1)


class CPLayer(nn.Module):
    """The same with the canonical decomposition of those matrices."""

    def __init__(self, width: int, after: int, meta_dim: int, rank: int) -> None:
        super().__init__()
        self.static = nn.Parameter(torch.randn(width, after) * width**-0.5)
        self.a = nn.Parameter(torch.randn(width, rank) * width**-0.5)
        self.b = nn.Parameter(torch.randn(rank, after) * rank**-0.5)
        self.c = nn.Parameter(torch.randn(rank, meta_dim))

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """float [..., width], float [..., s] -> float [..., after]."""
        return h @ self.static + ((h @ self.a) * (z @ self.c.T)) @ self.b
