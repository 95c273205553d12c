"""Features of items: each item is encoded once, outside the clients, and never trained.

``Encoder.encode`` → a cache of raw encodings → `transform` (principal components, whitening, norms,
a control) → `prepare`, which writes the file that every process maps.
"""

from collections.abc import Mapping

from fedrec.features.arrays import ArrayFile
from fedrec.features.base import Encoded, Encoder

__all__ = ["ENCODERS", "ArrayFile", "Encoded", "Encoder"]

ENCODERS: Mapping[str, type[Encoder]] = {
    "file": ArrayFile,
}
