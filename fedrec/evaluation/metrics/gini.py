"""Gini coefficient: how unevenly are the recommendations spread?"""

import numpy as np

from fedrec.evaluation.metrics.base import ExposureMetric
from fedrec.types import IntArray


class Gini(ExposureMetric):
    r"""Inequality of the items' exposure.

    .. math:: G@k = \frac{\sum_{i=1}^{n} (2i - n - 1)\, x_{(i)}}{n \sum_i x_i}

    with :math:`x_{(1)} \le \dots \le x_{(n)}` the numbers of top-k lists that hold each item.
    0: every item is recommended equally often; (n - 1) / n: one item has all the exposure.
    """

    def value(self, exposure: IntArray) -> float:
        """Return from 0 to (n - 1) / n; NaN where nothing is recommended."""
        n, total = len(exposure), int(exposure.sum())
        if total == 0:
            return float("nan")
        # Integers until the one division: exact, whatever the order.
        weights = 2 * np.arange(1, n + 1, dtype=np.int64) - n - 1
        return int(weights @ np.sort(exposure)) / (n * total)
