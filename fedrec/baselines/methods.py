"""Popularity and random scores; item nearest neighbours, EASE and implicit least squares."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from fedrec.baselines.base import Baseline, Scorer, TunableBaseline, interaction_matrix
from fedrec.compute.operations import padded_mm
from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError
from fedrec.ragged import Ragged
from fedrec.seeds import Purpose, normal, uniform
from fedrec.types import FloatArray, IntArray, Split


class Popularity(Baseline):
    r"""Score of an item: the number of its train interactions.

    .. math:: s_{ui} = |\{v : i \in T_v\}|

    with :math:`T_v` the train items of user v. Centralised, and the same for every user.
    """

    def fit(self, split: Split, seed: int, catalogue: Catalogue | None = None) -> Scorer:
        """Count; the seed is not used."""
        counts = np.bincount(split.train.values, minlength=split.n_items).astype(np.float32)
        return lambda users: np.tile(counts, (len(users), 1))


class RandomScores(Baseline):
    r"""Independent uniform scores, hashed from (seed, user, item).

    .. math:: s_{ui} \sim U(0, 1)

    So a user's scores do not depend on which users are scored together with it.
    """

    def fit(self, split: Split, seed: int, catalogue: Catalogue | None = None) -> Scorer:
        """Learn nothing; the split gives only the size of the catalogue."""
        items = np.arange(split.n_items, dtype=np.int64)

        def scores(users: IntArray) -> FloatArray:
            drawn = uniform(seed, Purpose.BASELINE, 0, users[:, None], items[None, :])
            return np.asarray(drawn, dtype=np.float32)

        return scores


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

    def fit(self, split: Split, seed: int, catalogue: Catalogue | None = None) -> Scorer:
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

    def fit(self, split: Split, seed: int, catalogue: Catalogue | None = None) -> Scorer:
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

    def fit(self, split: Split, seed: int, catalogue: Catalogue | None = None) -> Scorer:
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
