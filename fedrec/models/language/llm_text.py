"""Items and users as text: vectors of a frozen encoder, through a small shared adaptor."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Batch, History, Model
from fedrec.models.module import ModelParams
from fedrec.plugins import Defaults
from fedrec.types import ParamSpec


class LLMText(Model):
    r"""Score :math:`s_{ui} = (h_{u,t} + p_u) \cdot e_i` with item vectors made of text alone.

    .. math:: e_i = W (t_i - b) \; (+\, v_i), \qquad h_{u,t} = \sum_{j < t} a_j e_{i_j}

    with :math:`t_i` the frozen text vector, W and b shared by all, :math:`v_i` a row per item if
    ``id_rows``, :math:`p_u` private, and :math:`a_j` equal shares, or the softmax of
    :math:`q \cdot e_{i_j}`. An item that nobody took scores like one of the same text.

    Departures from the papers: one expert for W, no transformer over the history, no pretraining
    over domains.

    Args:
        feature: The feature of the items that holds the text vectors.
        embedding_dim: d, length of item and user vectors.
        history: Items of a history at most: the latest, or random ones (the same in all rounds)
            where the data has no times.
        pool: How a history becomes a vector: ``mean`` or ``attention``.
        id_rows: Add a trained row per item, which an item without train events does not have.
        init_std: Standard deviation of the normal initial values of rows and attention; W starts
            with that of Glorot, :math:`f^{-1/2}` for text vectors of length f.

    Reference: hou2022unisrec.
    """

    reference: ClassVar[str] = "hou2022unisrec"
    execution = "vmap"
    needs_times: ClassVar[bool] = False
    defaults: ClassVar[Defaults] = {
        "strategy": {"name": "fedadam", "server_optimizer": {"name": "adam", "lr": 0.002}},
        "rounds": {"count": 300, "cohort_fraction": 0.15},
        "evaluate": {"every": 20},
    }

    feature: str = "text"
    embedding_dim: int = Field(64, ge=1)
    history: int = Field(50, ge=1)
    pool: Literal["mean", "attention"] = "mean"
    id_rows: bool = False
    init_std: float = Field(0.01, ge=0)

    @property
    def needs_features(self) -> Sequence[str]:
        """Return ``feature``."""
        return (self.feature,)

    @property
    def window(self) -> int:
        """``history`` + 1."""
        return self.history + 1

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        """Return the text of each item, W, b, p_u; perhaps q and rows of items."""
        d, f = self.embedding_dim, catalogue.width(self.feature)
        row = ParamSpec("shared", "item", (d,), init_std=self.init_std)
        query = ParamSpec("shared", None, (d,), init_std=self.init_std)
        return {
            self.feature: ParamSpec("frozen", "item", (f,)),
            "adaptor": ParamSpec("shared", None, (d, f), init_std=f**-0.5),
            "shift": ParamSpec("shared", None, (f,)),
            "user": ParamSpec("private", "user", (d,)),
            **({"item": row} if self.id_rows else {}),
            **({"query": query} if self.pool == "attention" else {}),
        }

    def item_vectors(self, params: ModelParams, items: Tensor) -> Tensor:
        """float [q, d]."""
        vectors = (params[self.feature] - params["shift"]) @ params["adaptor"].T
        return vectors + params["item"] if self.id_rows else vectors

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """float [q]."""
        assert batch.history is not None and batch.context is not None
        read = self.states(params, batch.history)[batch.users, batch.context]
        return ((read + params["user"]) * vectors).sum(-1)

    def rank(self, params: ModelParams, batch: Batch, encoded: Tensor) -> Tensor:
        """float [b, n_items]."""
        assert batch.history is not None
        states = self.states(params, batch.history)
        last = states[torch.arange(len(states)), batch.history.lengths]
        return (last + params["user"]) @ encoded.T

    def states(self, params: ModelParams, history: History) -> Tensor:
        """float [u, h + 1, d]: what 0, 1, ... items of each history come to."""
        vectors = history.vectors
        nothing = vectors.new_zeros((len(vectors), 1, vectors.shape[-1]))
        if vectors.shape[1] == 0:
            return nothing
        share = torch.ones_like(vectors[..., :1])
        if self.pool == "attention":
            logits = vectors @ params["query"]
            share = (logits - logits.amax(1, keepdim=True)).exp().unsqueeze(-1)
        means = (share * vectors).cumsum(1) / share.cumsum(1).clamp(min=1e-30)
        return torch.cat([nothing, means], 1)
