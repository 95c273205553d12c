"""Recall: how much of what was held out makes the list?"""

import numpy as np

from fedrec.evaluation.metrics.base import PerUserMetric
from fedrec.types import FloatArray, Ragged


class Recall(PerUserMetric):
    r"""Share of a user's held-out items that stand in its top k.

    .. math:: \mathrm{Recall}@k(u) = \frac{|\{i : r_{ui} \le k\}|}{|H_u|}

    with :math:`r_{ui}` the rank, from 1, of item i of the held-out items :math:`H_u`. The
    denominator is not cut at k, so a user with more than k held-out items cannot reach 1.
    """

    def per_user(self, ranks: Ragged) -> FloatArray:
        """Return from 0 to 1 for each user, float64 [n]."""
        hits = np.bincount(ranks.owners(), ranks.values <= self.depth, len(ranks))
        return hits / ranks.lengths
