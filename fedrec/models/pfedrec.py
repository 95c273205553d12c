"""PFedRec: a global item table and a private scoring function."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedrec.compute.operations import padded_mm, row_dot
from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Batch, Model
from fedrec.models.module import ModelParams
from fedrec.plugins import Defaults
from fedrec.types import ParamSpec


class PFedRec(Model):
    r"""Score :math:`s_{ui} = w_u \cdot e_i + b_u`; the linear head :math:`(w_u, b_u)` is private.

    There is no user vector: the scoring function itself is the user's own. Departures from the
    paper and its code: the bias never leaves the client (the code uploads it, without use); heads
    start from different values (the code copies one); head and table step together (the code
    steps the head, then the table); by itself the ranking takes the fresh global table with the
    private head (the paper ranks with the table that the client has just tuned: PLGC with
    ``branch: table`` keeps such a one). One start of N(0, 1) item vectors, as in the code, is
    ``init_std: 1``.

    Args:
        embedding_dim: d, length of the item vectors and of the head.
        init_std: standard deviation of the normal initial values of the item vectors.
        head_std: the same of the head's weights; its bias starts from 0.

    Reference: zhang2023dual.
    """

    reference: ClassVar[str] = "zhang2023dual"
    execution = "flat"
    defaults: ClassVar[Defaults] = {**Model.defaults, "train": {"weight_decay": 0.1}}

    embedding_dim: int = Field(128, ge=1)
    init_std: float = Field(0.01, ge=0)
    head_std: float = Field(0.01, ge=0)

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        """``item`` [d] per item, shared; ``head`` [d] and ``bias`` [] per user, private."""
        shape = (self.embedding_dim,)
        return {
            "item": ParamSpec("shared", "item", shape, init_std=self.init_std),
            "head": ParamSpec("private", "user", shape, init_std=self.head_std),
            "bias": ParamSpec("private", "user", ()),
        }

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """float [q]."""
        return row_dot(params["head"], vectors) + params["bias"]

    def features(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """float [q, d + 1]: the item's row, and the 1 that the bias multiplies."""
        return torch.cat([vectors, vectors.new_ones(len(vectors), 1)], dim=1)

    def rank(self, params: ModelParams, batch: Batch, encoded: Tensor) -> Tensor:
        """float [b, n_items]."""
        return padded_mm(params["head"], encoded.T) + params["bias"].unsqueeze(-1)
