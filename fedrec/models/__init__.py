"""Client models. One file each."""

from collections.abc import Mapping

from fedrec.models.base import Model
from fedrec.models.mf import MatrixFactorization
from fedrec.models.neumf import NeuMF
from fedrec.models.pfedrec import PFedRec
from fedrec.models.sasrec import SASRec

__all__ = ["MODELS", "MatrixFactorization", "Model", "NeuMF", "PFedRec", "SASRec"]

MODELS: Mapping[str, type[Model]] = {
    "mf": MatrixFactorization,
    "pfedrec": PFedRec,
    "neumf": NeuMF,
    "sasrec": SASRec,
}
