"""Client models of items with frozen features of several kinds, such as text and image."""

from fedrec.models.multimodal.cm3 import CM3
from fedrec.models.multimodal.gate import Gate
from fedrec.models.multimodal.late_fusion import LateFusion
from fedrec.models.multimodal.lirdrec import LIRDRec
from fedrec.models.multimodal.metammf import MetaMMF
from fedrec.models.multimodal.vbpr import VBPR

__all__ = ["CM3", "VBPR", "Gate", "LIRDRec", "LateFusion", "MetaMMF"]
