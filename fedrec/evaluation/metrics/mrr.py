"""Mean reciprocal rank: how far down is the first hit?"""

from typing import ClassVar

from fedrec.evaluation.metrics.base import PerUserMetric
from fedrec.types import FloatArray, Ragged


class MRR(PerUserMetric):
    r"""One over the rank of the user's best held-out item; 0 where it is beyond k.

    .. math:: \mathrm{MRR}@k(u) = \frac{[r_u \le k]}{r_u}, \quad r_u = \min_{i} r_{ui}

    with :math:`r_{ui}` the rank, from 1, of held-out item i. Without k the whole ranking counts.
    """

    needs_k: ClassVar[bool] = False

    def per_user(self, ranks: Ragged) -> FloatArray:
        """Return from 0 to 1 for each user, float64 [n]."""
        best = ranks.values[ranks.offsets[:-1]]
        return (best <= self.depth) / best
