"""Normalised discounted cumulative gain: a hit high in the list counts more."""

from typing import ClassVar

import numpy as np

from fedrec.evaluation.metrics.base import PerUserMetric
from fedrec.types import FloatArray, Ragged


class NDCG(PerUserMetric):
    r"""Discounted gain of the held-out items in the top k, over that of the ideal list.

    .. math::
        \mathrm{NDCG}@k(u) = \frac{\sum_{i \in H_u, r_{ui} \le k} 1 / \log_2(1 + r_{ui})}
                                  {\sum_{r=1}^{\min(|H_u|, k)} 1 / \log_2(1 + r)}

    with :math:`r_{ui}` the rank, from 1, of item i of the held-out items :math:`H_u`; gains are
    binary.

    Reference: jarvelin2002cumulated, with binary gains.
    """

    reference: ClassVar[str] = "jarvelin2002cumulated"

    def per_user(self, ranks: Ragged) -> FloatArray:
        """Return from 0 to 1 for each user, float64 [n]."""
        longest = int(max(ranks.values.max(initial=1), ranks.lengths.max(initial=1)))
        depth = min(self.depth, longest)
        # One table of discounts, so that a value never depends on its place in the array.
        discount = 1.0 / np.log2(np.arange(2, longest + 2, dtype=np.float64))
        gains = np.where(ranks.values <= depth, discount[ranks.values - 1], 0.0)
        ideal = np.cumsum(discount)[np.minimum(ranks.lengths, depth) - 1]
        return np.asarray(np.bincount(ranks.owners(), gains, len(ranks)) / ideal)
