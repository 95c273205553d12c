"""Client models, and the centralised yardsticks they are measured against. One file each."""

from collections.abc import Mapping

from fedrec.models.base import History, Model, Pairs, Scorer, Tensors, Yardstick
from fedrec.models.itemknn import ItemKNN
from fedrec.models.mf import MatrixFactorization
from fedrec.models.neumf import NeuMF
from fedrec.models.pfedrec import PFedRec
from fedrec.models.popularity import Popularity
from fedrec.models.random import RandomScores
from fedrec.models.sasrec import SASRec

__all__ = [
    "MODELS",
    "History",
    "ItemKNN",
    "MatrixFactorization",
    "Model",
    "NeuMF",
    "PFedRec",
    "Pairs",
    "Popularity",
    "RandomScores",
    "SASRec",
    "Scorer",
    "Tensors",
    "Yardstick",
]

MODELS: Mapping[str, type[Model | Yardstick]] = {
    "mf": MatrixFactorization,
    "pfedrec": PFedRec,
    "neumf": NeuMF,
    "sasrec": SASRec,
    "popularity": Popularity,
    "random": RandomScores,
    "itemknn": ItemKNN,
}
