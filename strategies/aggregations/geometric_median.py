"""The geometric median, as in robust federated aggregation (Pillutla et al., 2022)."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from fedrec.plugins import Count
from fedrec.types import FloatArray
from strategies.aggregations.row_wise import RowWise


class GeometricMedian(RowWise):
    r"""Every item's row takes the point whose distances to the clients' changes sum to the least.

    .. math:: z \leftarrow \frac{\sum_u \beta_u \Delta_{ui}}{\sum_u \beta_u}, \quad
              \beta_u = \frac{1}{\max(\nu, \lVert z - \Delta_{ui} \rVert)}

    from the mean on. It stays finite whatever fewer than half of the clients send. The paper
    weights clients by their examples, and takes whole updates for points.

    Args:
        iterations: How often z is improved; the paper needs 4 or fewer.
        smoothing: :math:`\nu`, the distance below which a client does not count more.

    Reference: pillutla2022robust.
    """

    reference: ClassVar[str] = "pillutla2022robust"

    iterations: Count = 4
    smoothing: float = Field(1e-6, gt=0)

    def choose(self, rows: FloatArray) -> FloatArray:
        """Return the point after some iterations."""
        points = rows.astype(np.float64)
        centre = points.mean(1)
        for _ in range(self.iterations):
            far = np.sqrt(((points - centre[:, None]) ** 2).sum(2))
            weights = 1.0 / np.maximum(far, self.smoothing)[:, :, None]
            centre = (weights * points).sum(1) / weights.sum(1)
        return np.asarray(centre)
