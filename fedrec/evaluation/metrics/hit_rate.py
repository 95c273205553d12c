"""Hit rate: does any held-out item make the list?"""

import numpy as np

from fedrec.evaluation.metrics.base import PerUserMetric
from fedrec.types import FloatArray, Ragged


class HitRate(PerUserMetric):
    r"""Share of the users with a held-out item in their top k.

    .. math:: \mathrm{HR}@k(u) = [\min_i r_{ui} \le k]

    with :math:`r_{ui}` the rank, from 1, of held-out item i.
    """

    def per_user(self, ranks: Ragged) -> FloatArray:
        """Return 0 or 1 for each user, float64 [n]."""
        return (ranks.values[ranks.offsets[:-1]] <= self.depth).astype(np.float64)
