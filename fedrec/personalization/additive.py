"""FedRAP: private item rows that are added to the shared ones."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedrec.compute.batch import PairBatch, Tensors
from fedrec.personalization.base import FrozenItems, Personalization, Ranking, View
from fedrec.types import ParamSpec


class Additive(Personalization):
    r"""The model sees :math:`C_i + D_{ui}`: a shared row and, of positives, a private one.

    One loss trains both; the published one (``train.reduction: mean``) adds :math:`-\lambda\,
    \overline{(D - C)^2} + \mu\, \overline{|C|}`, here over a user's positives and items of a step.
    Its numbers rest on private rows of all items and on ``protocol: legacy``: no reference here.

    Args:
        repulsion: :math:`\lambda`, published as 0.1.
        sparsity: :math:`\mu`, published as 0.001.

    Reference: li2024fedrap.
    """

    reference: ClassVar[str] = "li2024fedrap"
    views: ClassVar[tuple[View, ...]] = ("mixed", "global")
    mixes: ClassVar[Literal["item"]] = "item"
    repulsion: float = Field(0.0, ge=0)
    sparsity: float = Field(0.0, ge=0)

    def state(self, dim: int) -> Mapping[str, ParamSpec]:
        """Return ``private_item`` [d] per positive, which begins as 0."""
        return {"private_item": ParamSpec("private", "positive", (dim,))}

    def rows(self, work: Tensor, frozen: Tensor, local: Tensors, pairs: PairBatch) -> Tensor:
        """Return the sums of both rows, float [q, d]."""
        return work + local["private_item"]

    def loss(self, work: Tensor, frozen: Tensor, local: Tensors, pairs: PairBatch) -> Tensor | None:
        """Return the two terms, summed over users."""
        if self.repulsion == self.sparsity == 0:
            return None
        user, positive = pairs.users, pairs.labels.to(work.dtype)
        share = positive / torch.bincount(user, positive)[user].clamp_min(1)
        apart = (local["private_item"] - work).square().mean(-1) * share
        size = work.abs().mean(-1) / torch.bincount(user)[user]
        return (self.sparsity * size - self.repulsion * apart).sum()

    def rank(
        self, frozen_items: FrozenItems, local: Tensors, ranking: Ranking
    ) -> dict[View, Tensor]:
        """Return the scores with the sums of rows, and with the shared ones alone."""
        users, items, at = frozen_items.positives_of(ranking.users)
        own, base = local["private_item"][torch.as_tensor(at)], ranking.scores()
        rows = own + frozen_items.table[torch.as_tensor(items)]
        return {"mixed": ranking.patched(base, users, items, rows), "global": base}
