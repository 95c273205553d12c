"""The coordinate-wise median of the clients' changes (Yin et al., 2018)."""

from typing import ClassVar

import numpy as np

from fedrec.types import FloatArray
from strategies.rowwise import Rowwise

__all__ = ["Median"]


class Median(Rowwise):
    r"""Every coordinate of an item's row takes the median over the clients that touched the item.

    .. math:: x_i \leftarrow x_i + \eta \, \mathrm{med} \{ \Delta_{ui} : i \in S_u \}

    Clients that did not touch the item have no say: their zeros would be the median of nearly all
    items. Dense parameters take the median over all clients of the cohort. Every client's update
    travels to the server by itself.

    Args:
        server_lr: :math:`\eta`.

    Reference: yin2018byzantine, Algorithm 1, option I.
    """

    reference: ClassVar[str] = "yin2018byzantine"

    @property
    def least(self) -> int:
        """Three: the median of two is their mean."""
        return 3

    def choose(self, rows: FloatArray) -> FloatArray:
        """Return the coordinate-wise median over the clients."""
        return np.asarray(np.median(rows, axis=1))
