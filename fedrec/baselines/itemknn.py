"""Item nearest neighbours: items that the same users took."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedrec.baselines.base import Baseline, Scorer
from fedrec.errors import MissingExtra
from fedrec.types import FloatArray, IntArray, Ragged, Split

__all__ = ["ItemKNN"]


class ItemKNN(Baseline):
    r"""Sum of the similarities of an item to the user's train items. Centralised.

    .. math::
        s_{ui} = \sum_{j \in T_u} w_{ij}, \qquad
        w_{ij} = \frac{c_{ij}}{\sqrt{c_i c_j} + \lambda}

    with :math:`c_{ij}` the users who took both, :math:`c_i` those who took i; of each item j only
    the ``neighbours`` largest :math:`w_{ij}` are kept (of equal ones, the lowest items i), and
    :math:`w_{jj} = 0`.

    Args:
        neighbours: items kept per item.
        shrink: the λ that holds similarities down that rest on few users.

    Reference: deshpande2004item, with cosine similarity.
    """

    reference: ClassVar[str] = "deshpande2004item"

    neighbours: int = Field(100, ge=1)
    shrink: float = Field(10.0, ge=0)

    def fit(self, split: Split, seed: int) -> Scorer:
        """Compute the similarities; the seed is not used.

        Raises:
            MissingExtra: If scipy is not installed.
        """
        try:
            from scipy import sparse
        except ImportError as error:
            raise MissingExtra("the model 'itemknn' needs scipy, which", "sim") from error
        taken = _matrix(split.train, split.n_items, sparse)
        weights = _neighbours(taken, self.neighbours, self.shrink, sparse)

        def scores(users: IntArray) -> FloatArray:
            return np.asarray((taken[users] @ weights).toarray(), dtype=np.float32)

        return scores


def _matrix(rows: Ragged, n_items: int, sparse: Any) -> Any:
    """CSR float64 [n_users, n_items] of ones."""
    ones = np.ones(len(rows.values))
    return sparse.csr_matrix((ones, rows.values, rows.offsets), shape=(len(rows), n_items))


def _neighbours(taken: Any, neighbours: int, shrink: float, sparse: Any) -> Any:
    """CSR float64 [n_items, n_items]; row j holds the kept weights of item j."""
    together = (taken.T @ taken).tocoo()
    count = np.bincount(taken.indices, minlength=taken.shape[1]).astype(np.float64)
    other = together.row != together.col
    source, target, both = together.row[other], together.col[other], together.data[other]
    weight = both / (np.sqrt(count[source] * count[target]) + shrink)
    order = np.lexsort((target, -weight, source))
    source, target, weight = source[order], target[order], weight[order]
    degree = np.bincount(source, minlength=taken.shape[1])
    first = np.cumsum(degree) - degree
    kept = np.arange(len(source)) - first[source] < neighbours
    shape = (taken.shape[1], taken.shape[1])
    return sparse.csr_matrix((weight[kept], (source[kept], target[kept])), shape=shape)
