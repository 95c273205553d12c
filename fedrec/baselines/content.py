"""Baselines that rank items which nobody has taken yet: by their features, by a column."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedrec.baselines.base import Baseline, Scorer, TunableBaseline, interaction_matrix
from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError, did_you_mean
from fedrec.types import FloatArray, Split

# Items whose similarities to all others are computed at once.
BLOCK = 1024


class ContentKNN(TunableBaseline):
    r"""Sum of the similarities of an item's features to those of the user's train items.

    .. math::
        s_{ui} = \sum_{j \in T_u \cap N(i)} w_{ij}, \qquad
        w_{ij} = \frac{1}{m} \sum_{k=1}^{m} \cos(f_{ik}, f_{jk})

    with :math:`N(i)` the ``neighbours`` most similar items to i that somebody trains on, and
    :math:`f_{ik}` the k-th of m features of item i. A feature that an item lacks is similar to
    none. Centralised only in who computes it: a client could.

    Args:
        features: Names of features of the section ``features``; empty: all of them.
        neighbours: Items used per item.
    """

    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {"neighbours": (10, 30, 100, 300, 1000)}
    untuned: ClassVar[Mapping[str, Any]] = {"neighbours": 100}

    features: tuple[str, ...] = ()
    neighbours: int | None = Field(None, ge=1)

    def fit(self, split: Split, seed: int, catalogue: Catalogue | None = None) -> Scorer:
        """Compute the similarities; the seed is not used.

        Raises:
            ConfigError: If the items do not have the features.
            MissingExtra: If scipy is not installed.
        """
        catalogue = catalogue or Catalogue.of(split)
        interactions = interaction_matrix(split.train, split.n_items)
        vectors = unit_features(catalogue, self.features or tuple(catalogue.features))
        trained = np.flatnonzero(split.train_counts())
        weights = _nearest(interactions, vectors, trained, **self.settings())
        return lambda users: (interactions[users] @ weights).toarray().astype(np.float32)


def unit_features(catalogue: Catalogue, names: tuple[str, ...]) -> FloatArray:
    """Return vectors whose products are mean cosines of some features, float32 [n_items, f].

    Raises:
        ConfigError: If the items do not have the features, or no name is given.
    """
    if not names:
        raise ConfigError(
            "model: itemknn-content compares features of the items, but there are none; declare "
            "them in the section features"
        )
    blocks = []
    for name in names:
        values = catalogue.feature(name).reshape(catalogue.n_items, -1)
        norms = np.linalg.norm(values, axis=1, keepdims=True)
        blocks.append(values / np.maximum(norms, 1e-12) / len(names) ** 0.5)
    return np.concatenate(blocks, axis=1).astype(np.float32)


def _nearest(interactions: Any, vectors: FloatArray, items: Any, neighbours: int) -> Any:
    """Return CSR [n_items, n_items]; column i holds the similarities of i to its neighbours."""
    n, k = len(vectors), min(neighbours, len(items))
    near, weights = np.empty((n, k), np.int64), np.empty((n, k))
    for start in range(0, n, BLOCK):
        block = np.arange(start, min(start + BLOCK, n))
        similar = vectors[block] @ vectors[items].T
        similar[block[:, None] == items] = -np.inf  # an item is not its own neighbour
        at = np.argpartition(-similar, k - 1, axis=1)[:, :k]
        near[block], weights[block] = items[at], np.take_along_axis(similar, at, axis=1)
    weights[np.isneginf(weights)] = 0.0
    columns = np.repeat(np.arange(n), k)
    entries = weights.ravel(), (near.ravel(), columns)
    return type(interactions)(entries, shape=(n, n))


class ColumnPopularity(Baseline):
    r"""Mean popularity of the items that share what a column says of an item.

    .. math::
        s_{ui} = \frac{1}{|G_i|} \sum_{g \in G_i} \frac{1}{|I_g|} \sum_{j \in I_g} c_j

    with :math:`G_i` the values of item i, such as its genres, :math:`I_g` the items with the value
    g that somebody trains on, and :math:`c_j` the train interactions of item j. Values that no
    trained item has do not count; an item without any other has the mean of all trained items.
    Centralised, and the same for every user.

    Args:
        column: Name of a column of the items.
        separator: What stands between the values of an item.
    """

    column: str = "genres"
    separator: str = Field("|", min_length=1)

    def fit(self, split: Split, seed: int, catalogue: Catalogue | None = None) -> Scorer:
        """Count; the seed is not used.

        Raises:
            ConfigError: If the items have no such column.
        """
        if self.column not in split.item_columns:
            hint = did_you_mean(self.column, split.item_columns) or " (they have none)"
            raise ConfigError(f"model.column: the items have no column '{self.column}'{hint}")
        texts = split.item_columns[self.column].tolist()
        values = [{part.strip() for part in text.split(self.separator)} - {""} for text in texts]
        counts, by_value = split.train_counts(), dict[str, list[int]]()
        for item in np.flatnonzero(counts).tolist():
            for value in values[item]:
                by_value.setdefault(value, []).append(int(counts[item]))
        means = {value: sum(of_value) / len(of_value) for value, of_value in by_value.items()}
        scores = np.full(split.n_items, counts[counts > 0].mean(), np.float32)
        for item, of_item in enumerate(values):
            of_values = [means[value] for value in sorted(of_item) if value in means]
            if of_values:
                scores[item] = sum(of_values) / len(of_values)
        return lambda users: np.tile(scores, (len(users), 1))
