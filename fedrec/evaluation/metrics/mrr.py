"""Mean reciprocal rank: how far down is the first hit?"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fedrec.evaluation.metrics.base import PerUserMetric
from fedrec.types import FloatArray, Ragged

__all__ = ["MRR"]


class MRR(PerUserMetric):
    r"""One over the rank of the user's best held-out item; 0 where it is beyond k.

    .. math:: \mathrm{MRR}@k(u) = \frac{[r_u \le k]}{r_u}, \quad r_u = \min_{i} r_{ui}

    with :math:`r_{ui}` the rank, from 1, of held-out item i. Without k the whole ranking counts.
    """

    needs_k: ClassVar[bool] = False

    def per_user(self, ranks: Ragged) -> FloatArray:
        """Compute from 0 to 1 for each user, float64 [n], NaN without held-out items."""
        result = np.full(len(ranks), np.nan)
        some = ranks.lengths > 0
        best = ranks.values[ranks.offsets[:-1][some]]
        reciprocal = 1.0 / best
        result[some] = reciprocal if self.k is None else np.where(best <= self.k, reciprocal, 0.0)
        return result
