"""An encoder of a user's own, and some that break a contract each."""

from itertools import count

import numpy as np

from fedrec.data.catalogue import Catalogue
from fedrec.features import Encoded, Encoder
from fedrec.features.base import Report
from fedrec.plugins import Plugin
from fedrec.types import FloatArray

__all__ = ["BROKEN_ENCODERS", "Lengths"]

COUNTER = count()


class Lengths(Encoder):
    """Encodes a title by its number of characters and of words."""

    def content(self, items: Catalogue) -> str:
        return "\n".join(items.item_columns["title"])

    def encode(self, items: Catalogue, report: Report) -> Encoded:
        texts = items.item_columns["title"].tolist()
        values = np.array([[len(text), len(text.split())] for text in texts], np.float32)
        return Encoded(self.changed(values), values[:, 0] > 0)

    def changed(self, values: FloatArray) -> FloatArray:
        return values


class Halves(Lengths):
    """Returns numbers of another type."""

    def changed(self, values: FloatArray) -> FloatArray:
        return values.astype(np.float64)


class Restless(Lengths):
    """Returns other numbers each time."""

    def changed(self, values: FloatArray) -> FloatArray:
        return np.where(values > 0, values + np.float32(next(COUNTER)), values)


class Centred(Lengths):
    """Compares an item with all others."""

    def changed(self, values: FloatArray) -> FloatArray:
        return np.where(values > 0, values - values.mean(axis=0), values)


class Forgetful(Lengths):
    """Does not hash what it encodes."""

    def content(self, items: Catalogue) -> str:
        return ""


BROKEN_ENCODERS: list[tuple[Plugin, set[str]]] = [
    (Halves(), {"rows_fit_the_items"}),
    (Restless(), {"encoding_twice_gives_the_same"}),
    (Centred(), {"an_items_row_is_its_own"}),
    (Forgetful(), {"what_is_encoded_is_in_the_hash"}),
]
