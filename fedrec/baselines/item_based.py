"""Item nearest neighbours and EASE: how much each item speaks for each other one."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedrec.baselines.base import Scorer, TunableBaseline, interaction_matrix
from fedrec.errors import ConfigError
from fedrec.types import Split


class ItemKNN(TunableBaseline):
    r"""Sum of the similarities of an item to the user's train items. Centralised.

    .. math::
        s_{ui} = \sum_{j \in T_u} w_{ij}, \qquad
        w_{ij} = \frac{c_{ij}}{\sqrt{c_i c_j} + \lambda}

    with :math:`c_{ij}` the users who took both, :math:`c_i` those who took i; of each item j only
    the ``neighbours`` largest :math:`w_{ij}` are used (of equal ones, the lowest items i), and
    :math:`w_{jj} = 0`.

    Args:
        neighbours: Items used per item.
        shrink: The λ that lowers similarities that rest on few users.

    Reference: deshpande2004item, with cosine similarity.
    """

    reference: ClassVar[str] = "deshpande2004item"
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "neighbours": (10, 30, 100, 300, 1000),
        "shrink": (0.0, 10.0, 100.0, 1000.0),
    }
    untuned: ClassVar[Mapping[str, Any]] = {"neighbours": 100, "shrink": 10.0}

    neighbours: int | None = Field(None, ge=1)
    shrink: float | None = Field(None, ge=0)

    def fit(self, split: Split, seed: int) -> Scorer:
        """Compute the similarities; the seed is not used.

        Raises:
            MissingExtra: If scipy is not installed.
        """
        interactions = interaction_matrix(split.train, split.n_items)
        weights = _similarities(interactions, **self.settings())
        return lambda users: (interactions[users] @ weights).toarray().astype(np.float32)


def _similarities(interactions: Any, neighbours: int, shrink: float) -> Any:
    """Return CSR float64 [n_items, n_items]; row j holds the largest weights of item j."""
    pairs = (interactions.T @ interactions).tocoo()
    users = pairs.diagonal()
    is_pair = pairs.row != pairs.col
    source, target, common = pairs.row[is_pair], pairs.col[is_pair], pairs.data[is_pair]
    weights = common / (np.sqrt(users[source] * users[target]) + shrink)
    by_weight = np.lexsort((target, -weights, source))
    source, target, weights = source[by_weight], target[by_weight], weights[by_weight]
    is_near = np.arange(len(source)) - np.searchsorted(source, source) < neighbours
    near = weights[is_near], (source[is_near], target[is_near])
    return type(interactions)(near, shape=pairs.shape)


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
