"""Features of items: each item is encoded once, outside the clients, and never trained.

``Encoder.encode`` → a cache of raw encodings → `transform` (principal components, whitening, norms,
a control) → `prepare`, which writes the file that every process maps.
"""

from collections.abc import Mapping

from fedrec.features.arrays import ArrayFile
from fedrec.features.base import Encoded, Encoder
from fedrec.features.batches import BatchEncoder, TextEncoder
from fedrec.features.function import Function
from fedrec.features.pictures import EfficientNetLite0, PictureEncoder
from fedrec.features.token_table import TokenTable
from fedrec.features.transformer import HuggingFace, MiniLM

__all__ = [
    "ENCODERS",
    "ArrayFile",
    "BatchEncoder",
    "EfficientNetLite0",
    "Encoded",
    "Encoder",
    "Function",
    "HuggingFace",
    "MiniLM",
    "PictureEncoder",
    "TextEncoder",
    "TokenTable",
]

ENCODERS: Mapping[str, type[Encoder]] = {
    "callable": Function,
    "efficientnet-lite0": EfficientNetLite0,
    "file": ArrayFile,
    "huggingface": HuggingFace,
    "minilm": MiniLM,
    "token-table": TokenTable,
}
