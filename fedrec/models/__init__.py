"""Client models. One file each."""

from collections.abc import Mapping

from fedrec.compute.batch import Tensors
from fedrec.models.base import History, Model, Pairs
from fedrec.models.mf import MatrixFactorization
from fedrec.models.neumf import NeuMF
from fedrec.models.pfedrec import PFedRec
from fedrec.models.sasrec import SASRec

__all__ = [
    "MODELS",
    "History",
    "MatrixFactorization",
    "Model",
    "NeuMF",
    "PFedRec",
    "Pairs",
    "SASRec",
    "Tensors",
]

MODELS: Mapping[str, type[Model]] = {
    "mf": MatrixFactorization,
    "pfedrec": PFedRec,
    "neumf": NeuMF,
    "sasrec": SASRec,
}
