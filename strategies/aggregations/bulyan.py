"""Bulyan (El Mhamdi et al., 2018)."""

from typing import Any, ClassVar

import numpy as np

from fedrec.aggregation.distances import squared_distances
from fedrec.types import FloatArray, IntArray
from strategies.aggregations.krum import Krum
from strategies.aggregations.row_wise import median_of


class Bulyan(Krum):
    r"""Krum chooses :math:`\theta = m - 2 f` clients of an item, and a trimmed mean joins them.

    Krum chooses one after the other, with new scores among those that are left; of few clients the
    nearest neighbour counts. Each coordinate takes the mean of the :math:`\theta - 2 f` values
    nearest to the median of the chosen (of two equally near, the smaller). It needs
    :math:`4 f + 3` clients, and time that grows with :math:`m^3`.

    Reference: elmhamdi2018hidden.
    """

    reference: ClassVar[str] = "elmhamdi2018hidden"

    @property
    def clients_needed(self) -> int:
        """4 f + 3 clients."""
        return 4 * self.byzantine + 3

    def without_effect(self, run: Any) -> list[str]:
        """Say that nobody is left out."""
        lines = super().without_effect(run)
        if self.byzantine == 0:
            lines.append(
                "byzantine: 0 leaves no client out, as the aggregation mean does; raise it"
            )
        return lines

    def choose(self, rows: FloatArray) -> FloatArray:
        """Return the mean of the values nearest to the median of the chosen."""
        squared = squared_distances(rows)
        chosen = [of[self._chosen(each)] for of, each in zip(rows, squared, strict=True)]
        values = np.sort(np.stack(chosen), axis=1)
        far = np.abs(values - median_of(values)[:, None])
        near = np.argsort(far, axis=1, kind="stable")[:, : values.shape[1] - 2 * self.byzantine]
        return np.asarray(np.take_along_axis(values, near, axis=1).mean(1, dtype=np.float64))

    def _chosen(self, squared: FloatArray) -> IntArray:
        """Return which clients Krum chooses one after the other, of float64 [m, m] distances."""
        left, chosen = np.arange(len(squared)), list[int]()
        neighbours = np.argsort(squared, axis=1, kind="stable")[:, :-1]
        near = np.take_along_axis(squared, neighbours, axis=1)
        while len(chosen) < len(squared) - 2 * self.byzantine:
            nearest = max(1, len(left) - self.byzantine - 2)
            best = int(np.argmin(near[:, :nearest].sum(1)))
            chosen.append(int(left[best]))
            left = np.delete(left, best)
            others = np.delete(neighbours, best, axis=0)
            stays, shape = others != chosen[-1], (len(left), max(0, len(left) - 1))
            neighbours = others[stays].reshape(shape)
            near = np.delete(near, best, axis=0)[stays].reshape(shape)
        return np.array(chosen)
