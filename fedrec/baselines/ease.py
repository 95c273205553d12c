"""EASE: a linear model from all items of a user to each item, in closed form."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedrec.baselines.base import Scorer, TunableBaseline, interaction_matrix
from fedrec.errors import ConfigError
from fedrec.types import Split


class EASE(TunableBaseline):
    r"""Ridge regression of each item on all others, without itself. Centralised.

    .. math::
        s_{ui} = \sum_{j \in T_u} B_{ji}, \qquad
        B_{ji} = -\frac{P_{ji}}{P_{ii}} \; (j \ne i), \quad B_{ii} = 0, \qquad
        P = (X^\top X + \lambda I)^{-1}

    with X the users' train items as ones. Fitting holds about three matrices of
    ``n_items`` x ``n_items`` float64 at once.

    Args:
        regularization: The ridge λ.
        max_items: Larger catalogues are refused: 15,000 items need about 5 GiB.

    Reference: steck2019embarrassingly.
    """

    reference: ClassVar[str] = "steck2019embarrassingly"
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "regularization": (10.0, 30.0, 100.0, 200.0, 500.0, 1000.0, 3000.0)
    }
    untuned: ClassVar[Mapping[str, Any]] = {"regularization": 200.0}

    regularization: float | None = Field(None, gt=0)
    max_items: int = Field(15_000, ge=1)

    def fit(self, split: Split, seed: int) -> Scorer:
        """Solve the regressions; the seed is not used.

        Raises:
            ConfigError: If the catalogue has more than ``max_items`` items.
            MissingExtra: If scipy is not installed.
        """
        n_items = split.n_items
        if n_items > self.max_items:
            raise ConfigError(
                f"model.max_items: ease inverts a matrix of {n_items:,} x {n_items:,} numbers, "
                f"about {24 * n_items**2 / 2**30:.0f} GiB, and accepts {self.max_items:,} items; "
                "raise the limit if the memory is there, or filter more with data.k_core"
            )
        interactions = interaction_matrix(split.train, n_items)
        gram = (interactions.T @ interactions).toarray()
        gram[np.diag_indices(n_items)] += self.settings()["regularization"]
        inverse = np.linalg.inv(gram)
        del gram
        inverse /= -np.diag(inverse).copy()
        inverse[np.diag_indices(n_items)] = 0.0
        return lambda users: np.asarray(interactions[users] @ inverse, dtype=np.float32)
