"""Encoders of texts and pictures: some items at a time, only those that have something."""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from pydantic import Field

from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError, DataError, Fault, did_you_mean
from fedrec.features.base import Encoded, Encoder, Mask, Report
from fedrec.types import FloatArray

Batch: TypeAlias = Sequence[tuple[str, Any]]
"""Raw ids, and what is encoded of each: a text, or the bytes of a picture."""

EncodeBatch: TypeAlias = Callable[[Batch], tuple[FloatArray, int]]
"""Returns float [n, d], and how many of the n were too long and are cut."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What is encoded of the items.

    Args:
        present: bool [n_items]: which items have something.
        read: From the index of such an item to its text, or to the bytes of its picture.
        lengths: int64 [n_items]; None where all are as long. Long ones are encoded first, and with
            others as long.
        notes: What the user should know.
    """

    present: Mask
    read: Callable[[int], str | bytes]
    lengths: Any = None
    notes: tuple[str, ...] = ()


class BatchEncoder(Encoder):
    """Encodes what each item has, some items at a time."""

    at_once: ClassVar[int] = 32

    @abstractmethod
    def contents(self, items: Catalogue) -> Contents:
        """Return what is encoded of each item.

        Raises:
            FedRecError: If a column or a file is not there.
        """

    @abstractmethod
    def weights(self) -> str:
        """Return a hash of what encodes.

        Raises:
            FedRecError: If it is missing, or not what it should be.
        """

    @abstractmethod
    def load(self) -> EncodeBatch:
        """Return the function that encodes.

        Raises:
            FedRecError: If what it needs is missing or cannot be read.
        """

    def content(self, items: Catalogue) -> str:
        """Hash the weights and what is encoded of each item."""
        contents, state = self.contents(items), hashlib.sha256(self.weights().encode())
        for row, is_present in enumerate(contents.present.tolist()):
            content = contents.read(row) if is_present else b""
            encoded = content.encode() if isinstance(content, str) else content
            state.update(f"{is_present} {len(encoded)} ".encode() + encoded)
        return state.hexdigest()

    def encode(self, items: Catalogue, report: Report) -> Encoded:
        """Encode what each item has."""
        contents = self.contents(items)
        rows = np.flatnonzero(contents.present)
        if not len(rows):
            raise DataError("; ".join(["no item has anything to encode", *contents.notes]))
        if contents.lengths is not None:
            rows = rows[np.argsort(-contents.lengths[rows], kind="stable")]
        encode, ids = self.load(), items.item_ids
        values, cut = [], 0
        report(0, len(rows))
        for start in range(0, len(rows), self.at_once):
            some = rows[start : start + self.at_once].tolist()
            vectors, too_long = encode([(ids[row], contents.read(row)) for row in some])
            values.append(np.asarray(vectors, np.float32))
            cut += too_long
            report(start + len(some), len(rows))
        encoded = np.zeros((items.n_items, *values[0].shape[1:]), np.float32)
        encoded[rows] = np.concatenate(values)
        cuts = (f"{cut:,} of {len(rows):,} are longer than it takes, and cut",) * (cut > 0)
        return Encoded(encoded, contents.present, (*contents.notes, *cuts))


class TextEncoder(BatchEncoder):
    """Encodes the text of each item.

    Args:
        columns: of the items; their texts stand one after the other. An item in which all are
            empty has no text.
    """

    columns: tuple[str, ...] = Field(min_length=1)

    def contents(self, items: Catalogue) -> Contents:
        """Return the text of each item: what stands in its columns, joined as sentences."""
        for column in self.columns:
            if column not in items.item_columns:
                hint = did_you_mean(column, items.item_columns)
                hint = hint or "; give a file of them with data.items"
                raise ConfigError(Fault("columns", f"the items have no column '{column}'{hint}"))
        cells = zip(*(items.item_columns[each].tolist() for each in self.columns), strict=True)
        texts = [". ".join(filter(None, map(str.strip, row))) for row in cells]
        lengths = np.array([len(text) for text in texts], np.int64)
        return Contents(lengths > 0, texts.__getitem__, lengths)
