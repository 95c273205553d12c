"""Federated matrix factorisation."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from fedrec.compute.operations import padded_mm, row_dot
from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Batch, Model
from fedrec.models.module import ModelParams
from fedrec.plugins import Defaults
from fedrec.types import ParamSpec


class MatrixFactorization(Model):
    r"""Score :math:`s_{ui} = p_u \cdot e_i`; the user vector never leaves its client.

    Args:
        embedding_dim: d, length of the vectors.
        init_std: standard deviation of their normal initial values.

    Reference: koren2009matrix.
    """

    reference: ClassVar[str] = "koren2009matrix"
    execution = "flat"
    defaults: ClassVar[Defaults] = {**Model.defaults, "train": {"weight_decay": 0.1}}

    embedding_dim: int = Field(128, ge=1)
    init_std: float = Field(0.01, ge=0)

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        """``item`` [d] per item, shared; ``user`` [d] per user, private."""
        shape = (self.embedding_dim,)
        return {
            "item": ParamSpec("shared", "item", shape, init_std=self.init_std),
            "user": ParamSpec("private", "user", shape, init_std=self.init_std),
        }

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """float [q]."""
        return row_dot(params["user"], vectors)

    def rank(self, params: ModelParams, batch: Batch, encoded: Tensor) -> Tensor:
        """float [b, n_items]."""
        return padded_mm(params["user"], encoded.T)
