"""Client models."""

from collections.abc import Mapping

from fedrec.models.base import Model
from fedrec.models.language.llm_prompt import LLMPrompt
from fedrec.models.language.llm_text import LLMText
from fedrec.models.mf import MatrixFactorization
from fedrec.models.multimodal import CM3, VBPR, Gate, LateFusion, LIRDRec, MetaMMF
from fedrec.models.neumf import NeuMF
from fedrec.models.pfedrec import PFedRec
from fedrec.models.sasrec import SASRec

__all__ = [
    "CM3",
    "MODELS",
    "VBPR",
    "Gate",
    "LIRDRec",
    "LLMPrompt",
    "LLMText",
    "LateFusion",
    "MatrixFactorization",
    "MetaMMF",
    "Model",
    "NeuMF",
    "PFedRec",
    "SASRec",
]

MODELS: Mapping[str, type[Model]] = {
    "mf": MatrixFactorization,
    "pfedrec": PFedRec,
    "neumf": NeuMF,
    "sasrec": SASRec,
    "vbpr": VBPR,
    "late_fusion": LateFusion,
    "gate": Gate,
    "metammf": MetaMMF,
    "cm3": CM3,
    "lirdrec": LIRDRec,
    "llm_text": LLMText,
    "llm_prompt": LLMPrompt,
}
