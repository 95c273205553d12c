"""Coverage: how much of the catalogue is ever recommended?"""

import numpy as np

from fedrec.evaluation.metrics.base import ExposureMetric
from fedrec.types import IntArray


class Coverage(ExposureMetric):
    r"""Share of the catalogue that stands in at least one user's top k.

    .. math:: \mathrm{Coverage}@k = \frac{|\{i : x_i > 0\}|}{n}

    with :math:`x_i` the number of top-k lists that hold item i, and n the size of the catalogue.
    """

    def value(self, exposure: IntArray) -> float:
        """Return from 0 to 1; NaN for an empty catalogue."""
        if len(exposure) == 0:
            return float("nan")
        return float(np.count_nonzero(exposure)) / len(exposure)
