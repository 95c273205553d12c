"""SASRec, federated: what comes next in a user's ordered history, by self-attention."""

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedrec.compute.batch import Tensors
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
        "strategy": {"name": "fedadam", "average": "sum", "server_lr": 0.002},
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

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        """``item`` [d] per item; places, start token, blocks and last norm: all global."""
        d = self.embedding_dim
        square = ParamSpec("shared", None, (d, d), init_std=d**-0.5)
        zero, one = ParamSpec("shared", None, (d,)), ParamSpec("shared", None, (d,), init_value=1.0)
        specs = {
            "item": ParamSpec("shared", "item", (d,), init_std=self.init_std),
            "positions": ParamSpec("shared", None, (self.max_len, d), init_std=self.init_std),
            "start": ParamSpec("shared", None, (d,), init_std=self.init_std),
        }
        for block in range(self.blocks):
            for name in ("query", "key", "value", "mix", "ffn1", "ffn2"):
                specs[f"block{block}_{name}"] = square
                specs[f"block{block}_{name}_bias"] = zero
            for name in ("norm1", "norm2"):
                specs[f"block{block}_{name}"] = one
                specs[f"block{block}_{name}_bias"] = zero
        return {**specs, "norm": one, "norm_bias": zero}

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

    def states(self, params: Tensors, vectors: Tensor) -> Tensor:
        """float [u, t, d]: the states after 0, 1, ... items, at most ``max_len - 1``.

        Args:
            params: the global parameters.
            vectors: float [u, h, d], the histories, oldest first.
        """
        start = params["start"].expand(len(vectors), 1, -1)
        x = torch.cat([start, vectors], dim=1)[:, : self.max_len]
        x = x + params["positions"][: x.shape[1]]
        for block in range(self.blocks):
            layer = {
                name.removeprefix(f"block{block}_"): value
                for name, value in params.items()
                if name.startswith(f"block{block}_")
            }
            x = x + self._attention(_normed(x, layer, "norm1"), layer)
            inner = torch.relu(_linear(_normed(x, layer, "norm2"), layer, "ffn1"))
            x = x + _linear(inner, layer, "ffn2")
        return _normed(x, params, "norm")

    def _attention(self, x: Tensor, layer: Tensors) -> Tensor:
        """float [u, t, d]: each place looks at itself and what stands before it."""
        u, t, d = x.shape

        def heads(name: str) -> Tensor:
            return _linear(x, layer, name).reshape(u, t, self.heads, -1).transpose(1, 2)

        weights = heads("query") @ heads("key").transpose(-1, -2) * (d // self.heads) ** -0.5
        later = torch.ones(t, t, dtype=torch.bool).triu(1)
        shares = torch.softmax(weights.masked_fill(later, float("-inf")), dim=-1)
        return _linear((shares @ heads("value")).transpose(1, 2).reshape(u, t, d), layer, "mix")


def _linear(x: Tensor, params: Tensors, name: str) -> Tensor:
    return x @ params[name].T + params[f"{name}_bias"]


def _normed(x: Tensor, params: Tensors, name: str) -> Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], params[name], params[f"{name}_bias"])
