"""Item nearest neighbours: items that the same users took."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedrec.baselines.base import Scorer, TunableBaseline, interaction_matrix
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
