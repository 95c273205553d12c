"""Client models, and the centralised yardsticks they are measured against. One file each."""

from collections.abc import Mapping

from fedrec.models.base import Model, Pairs, Scorer, Tensors, Yardstick
from fedrec.models.itemknn import ItemKNN
from fedrec.models.mf import MatrixFactorization
from fedrec.models.popularity import Popularity
from fedrec.models.random import RandomScores

__all__ = [
    "MODELS",
    "ItemKNN",
    "MatrixFactorization",
    "Model",
    "Pairs",
    "Popularity",
    "RandomScores",
    "Scorer",
    "Tensors",
    "Yardstick",
]

MODELS: Mapping[str, type[Model | Yardstick]] = {
    "mf": MatrixFactorization,
    "popularity": Popularity,
    "random": RandomScores,
    "itemknn": ItemKNN,
}
