"""The coordinate-wise median (Yin et al., 2018)."""

from typing import ClassVar

from fedrec.types import FloatArray
from strategies.aggregations.row_wise import RowWise, median_of


class Median(RowWise):
    r"""Every coordinate of an item's row takes the median over the clients that touched the item.

    .. math:: \Delta_i = \mathrm{med} \{ \Delta_{ui} : i \in S_u \}

    Clients that did not touch it have no say: their zeros would be the median of nearly all items.

    Reference: yin2018byzantine, Algorithm 1, option I.
    """

    reference: ClassVar[str] = "yin2018byzantine"

    def choose(self, rows: FloatArray) -> FloatArray:
        """Return the coordinate-wise median over the clients."""
        return median_of(rows)
