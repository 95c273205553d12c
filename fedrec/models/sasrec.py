"""SASRec, federated: what comes next in a user's ordered history, by self-attention."""

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Batch, Model
from fedrec.models.module import ModelParams
from fedrec.plugins import Defaults
from fedrec.types import ParamSpec


class SASRec(Model):
    r"""Score :math:`s_{ui} = h_{u,t} \cdot e_i` with the state after the t items before i.

    .. math::
        X_0 = [a;\, e_{i_1};\, e_{i_2}; \dots] + P, \quad
        Y_l = X_{l-1} + \mathrm{Attention}(\mathrm{LN}(X_{l-1})), \quad
        X_l = Y_l + \mathrm{FFN}(\mathrm{LN}(Y_l)), \quad h = \mathrm{LN}(X_L)

    Attention is causal. Item vectors serve as input and as output, so a client's own item vectors
    act on both. Nothing but a personalization's values is the user's own: what differs is the
    history, which never leaves the client.

    Departures from the paper: a learned start token a stands before the first item, so that it
    too has a context and users without history have a state; places count from there, not from
    the end; no dropout; several heads are possible, with a linear layer after them. As in the
    paper the latest ``max_len`` items are trained on. The ranking for the test starts from the
    train items alone: the validation item is masked but not appended, as papers often do.

    Args:
        embedding_dim: d, length of all vectors.
        max_len: places: a state sees the start token and the latest ``max_len - 1`` items.
        blocks: L, layers of attention and feed-forward.
        heads: of the attention; divides d.
        init_std: standard deviation of the normal initial values of item vectors, positions and
            the start token; weight matrices start with that of Glorot, :math:`d^{-1/2}`.

    Reference: kang2018selfattentive.
    """

    reference: ClassVar[str] = "kang2018selfattentive"
    execution = "vmap"
    defaults: ClassVar[Defaults] = {
        "strategy": {"name": "fedadam", "server_optimizer": {"name": "adam", "lr": 0.002}},
        "rounds": {"count": 1000, "cohort_fraction": 0.15},
        "evaluate": {"every": 20},
    }

    embedding_dim: int = Field(32, ge=1)
    max_len: int = Field(50, ge=2)
    blocks: int = Field(2, ge=1)
    heads: int = Field(1, ge=1)
    init_std: float = Field(0.1, ge=0)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.embedding_dim % self.heads:
            raise ValueError(
                f"heads: {self.heads} do not divide embedding_dim {self.embedding_dim}; "
                "give a divisor"
            )
        return self

    @property
    def window(self) -> int:
        """``max_len``."""
        return self.max_len

    def build(self, catalogue: Catalogue) -> nn.Module:
        """Return the blocks and the last norm."""
        d = self.embedding_dim
        network = nn.Sequential(
            *(_Block(d, self.heads) for _ in range(self.blocks)), nn.LayerNorm(d)
        )
        for name, value in network.named_parameters():
            if value.dim() > 1:
                nn.init.normal_(value, std=d**-0.5)
            elif name.endswith("bias"):
                nn.init.zeros_(value)
        return network

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        """``item`` [d] per item, and the places and the start token."""
        d, std = self.embedding_dim, self.init_std
        return {
            "item": ParamSpec("shared", "item", (d,), init_std=std),
            "positions": ParamSpec("shared", None, (self.max_len, d), init_std=std),
            "start": ParamSpec("shared", None, (d,), init_std=std),
        }

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """float [q]."""
        assert batch.history is not None and batch.context is not None
        states = self.states(params, batch.history.vectors)
        return (states[batch.users, batch.context] * vectors).sum(-1)

    def rank(self, params: ModelParams, batch: Batch, encoded: Tensor) -> Tensor:
        """float [b, n_items]."""
        assert batch.history is not None
        states = self.states(params, batch.history.vectors)
        last = states[torch.arange(len(states)), batch.history.lengths]
        return last @ encoded.T

    def states(self, params: ModelParams, vectors: Tensor) -> Tensor:
        """float [u, t, d]: the states after 0, 1, ... items, at most ``max_len - 1``.

        Args:
            params: the shared parameters.
            vectors: float [u, h, d], the histories, oldest first.
        """
        start = params["start"].expand(len(vectors), 1, -1)
        x = torch.cat([start, vectors], dim=1)[:, : self.max_len]
        x = x + params["positions"][: x.shape[1]]
        states: Tensor = params.module(x)
        return states


class _Block(nn.Module):
    """Causal self-attention, then two layers for each place; torch's fused kernels are slower."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query_key_value, self.mix = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.ffn = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d))

    def forward(self, x: Tensor) -> Tensor:
        """float [u, t, d] -> float [u, t, d]."""
        three = self.query_key_value(self.norm1(x)).chunk(3, -1)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in three)
        weights = q * q.shape[-1] ** -0.5 @ k.mT
        later = torch.ones(weights.shape[-2:], dtype=torch.bool).triu(1)
        shares = weights.masked_fill(later, -torch.inf).softmax(-1)
        y: Tensor = x + self.mix((shares @ v).transpose(1, 2).flatten(2))
        z: Tensor = y + self.ffn(self.norm2(y))
        return z
