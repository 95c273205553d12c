"""Krum and Multi-Krum (Blanchard et al., 2017)."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from fedrec.types import FloatArray
from strategies.aggregations.row_wise import RowWise, median_of


class Krum(RowWise):
    r"""Every item's row takes the change of the client whose neighbours are nearest.

    Of the m clients that touched an item, client u scores
    :math:`\sum_{v \in N_u} \lVert \Delta_{ui} - \Delta_{vi} \rVert^2` over its
    :math:`m - f - 2` nearest others; the mean of the ``select`` lowest scores is taken (of equal
    scores, the lowest client ids). Clients touch different items, so there is no distance between
    whole updates; an item that fewer than :math:`2 f + 3` clients touched cannot be protected by
    this rule and takes the coordinate-wise median. All dense parameters together count as one item
    of all clients.

    Args:
        byzantine: f, how many clients may send anything at all.
        select: How many changes are averaged: 1 is Krum, more is Multi-Krum.

    Reference: blanchard2017machine, sections 4 and 5.
    """

    reference: ClassVar[str] = "blanchard2017machine"

    byzantine: int = Field(1, ge=0)
    select: int = Field(1, ge=1)

    @property
    def least(self) -> int:
        """2 f + 3 clients."""
        return 2 * self.byzantine + 3

    def choose(self, rows: FloatArray) -> FloatArray:
        """Return the mean change of the clients with the lowest scores, item by item."""
        if rows.shape[1] < self.least:
            return median_of(rows)
        # One item at a time: the distances of m clients take m * m numbers.
        return np.stack([self._krum(of_item) for of_item in rows])

    def _krum(self, rows: FloatArray) -> FloatArray:
        """float64 [n] from float64 [m, n]."""
        nearest = len(rows) - self.byzantine - 2
        squares = (rows * rows).sum(1)
        distance = np.maximum(squares[:, None] + squares - 2.0 * rows @ rows.T, 0.0)
        np.fill_diagonal(distance, np.inf)
        score = np.sort(distance, axis=1)[:, :nearest].sum(1)
        chosen = np.sort(np.argsort(score, kind="stable")[: self.select])
        return np.asarray(rows[chosen].mean(0))
