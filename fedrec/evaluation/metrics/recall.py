"""Recall: how much of what was held out makes the list?"""

from __future__ import annotations

import numpy as np

from fedrec.evaluation.metrics.base import PerUserMetric
from fedrec.types import FloatArray, Ragged

__all__ = ["Recall"]


class Recall(PerUserMetric):
    r"""Share of a user's held-out items that stand in its top k.

    .. math:: \mathrm{Recall}@k(u) = \frac{|\{i : r_{ui} \le k\}|}{|H_u|}

    with :math:`r_{ui}` the rank, from 1, of item i of the held-out items :math:`H_u`. The
    denominator is not cut at k, so a user with more than k held-out items cannot reach 1.
    """

    def per_user(self, ranks: Ragged) -> FloatArray:
        """Compute from 0 to 1 for each user, float64 [n], NaN without held-out items."""
        found = ranks.owners()[ranks.values <= self.k] if self.k is not None else ranks.owners()
        hits = np.bincount(found, minlength=len(ranks)).astype(np.float64)
        held_out = ranks.lengths
        return np.where(held_out > 0, hits / np.maximum(held_out, 1), np.nan)
