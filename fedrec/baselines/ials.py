"""Implicit alternating least squares: centralised matrix factorisation."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from fedrec.baselines.base import Scorer, TunableBaseline, interaction_matrix
from fedrec.compute.operations import padded_mm
from fedrec.seeds import Purpose, normal
from fedrec.types import FloatArray, Ragged, Split


class ImplicitALS(TunableBaseline):
    r"""Score :math:`s_{ui} = p_u \cdot e_i`, fitted to all cells of the matrix. Centralised.

    .. math::
        \sum_u \sum_{i \in T_u} (s_{ui} - 1)^2 + \alpha \sum_{u, i} s_{ui}^2
        + \lambda \sum_u (n_u + \alpha n_I) \|p_u\|^2 + \lambda \sum_i (n_i + \alpha n_U) \|e_i\|^2

    with :math:`n_u, n_i` the train interactions of a user and of an item, :math:`n_U, n_I` the
    numbers of users and of items. Users and items are solved for in turn, exactly.

    Args:
        factors: d, length of the vectors.
        regularization: λ.
        alpha: Weight of all cells; each train interaction weighs 1 more.
        iterations: Sweeps over the users and the items.

    Reference: hu2008collaborative; scaled by frequency as in rendle2022revisiting.
    """

    reference: ClassVar[str] = "hu2008collaborative"
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "regularization": (0.002, 0.006, 0.02),
        "alpha": (0.1, 0.3, 1.0),
    }
    untuned: ClassVar[Mapping[str, Any]] = {"regularization": 0.003, "alpha": 0.3}

    factors: int = Field(96, ge=1)
    regularization: float | None = Field(None, gt=0)
    alpha: float | None = Field(None, gt=0)
    iterations: int = Field(10, ge=1)

    def fit(self, split: Split, seed: int) -> Scorer:
        """Factorise the train matrix; the seed draws the first item vectors."""
        chosen = self.settings()
        d, penalty, alpha = self.factors, chosen["regularization"], chosen["alpha"]
        by_user = split.train
        transposed = interaction_matrix(by_user, split.n_items).T.tocsr()
        by_item = Ragged(transposed.indptr.astype(np.int64), transposed.indices.astype(np.int64))
        drawn = normal(seed, Purpose.BASELINE, np.arange(split.n_items), (d,))
        items = 0.1 * d**-0.5 * drawn.astype(np.float64)
        for _ in range(self.iterations):
            users = solve(by_user, items, penalty, alpha)
            items = solve(by_item, users, penalty, alpha)
        left = torch.from_numpy(users.astype(np.float32))
        right = torch.from_numpy(items.astype(np.float32)).T
        return lambda rows: padded_mm(left[rows], right).numpy()


def solve(rows: Ragged, vectors: FloatArray, regularization: float, alpha: float) -> FloatArray:
    """Return the least-squares vectors of one side, given those of the other, float64 [n, d].

    Args:
        rows: Per row of this side, the rows of the other that it interacted with.
        vectors: float64 [m, d], of the other side.
        regularization: λ.
        alpha: α.
    """
    of_all = alpha * (vectors.T @ vectors)
    identity = np.eye(vectors.shape[1])
    solved = np.zeros((len(rows), vectors.shape[1]))
    for row in np.flatnonzero(rows.lengths).tolist():
        others = vectors[rows.row(row)]
        ridge = regularization * (len(others) + alpha * len(vectors))
        normal_matrix = others.T @ others + of_all + ridge * identity
        solved[row] = np.linalg.solve(normal_matrix, others.sum(axis=0))
    return solved
