"""The base of every encoder: what it makes of the items, and what is done to that."""

import hashlib
import inspect
import json
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedrec.data.catalogue import Catalogue
from fedrec.errors import DataError
from fedrec.plugins import OURS, Count, Plugin
from fedrec.types import FloatArray

FORMAT = 1
"""Of what fedrec's own encoders return; raised where one returns something else than before."""

Mask: TypeAlias = NDArray[np.bool_]
Report: TypeAlias = Callable[[int, int], None]
"""Is called with how many of how many items are encoded."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an encoder makes of the items.

    Args:
        values: float32 [n_items, ...]; 0 for an item that has none.
        present: bool [n_items]: whether the item has any.
        notes: What the user should know, one line each, such as how many texts were cut.
    """

    values: FloatArray
    present: Mask
    notes: tuple[str, ...] = ()


class Encoder(Plugin):
    """Makes a feature: some numbers for each item, from its columns, its picture or a file.

    What it returns is cached; the options below are applied to that, and do not encode again.
    Principal components and whitening are fitted on the items that have train interactions and the
    feature. Items without the feature are 0 and masked.

    Args:
        pca: keep so many principal components; None: all numbers.
        whiten: let the numbers have the same variance, and none depend on another (see
            `fedrec.features.transform`).
        normalize: the rows have norm 1 (``row``), their mean norm is 1 (``mean``), or they stay as
            they are (``none``): blocks of equal norm have equal weight where they stand together.
        shuffle: a control: permute the rows among the items that have the feature, by this seed.
    """

    pca: Count | None = None
    whiten: bool = False
    normalize: Literal["row", "mean", "none"] = "row"
    shuffle: int | None = Field(None, ge=0)

    @abstractmethod
    def encode(self, items: Catalogue, report: Report) -> Encoded:
        """Encode all items.

        Args:
            items: Their raw ids and columns.
            report: Is told how far it is.

        Raises:
            FedRecError: If it cannot be done; the message names the file, the item or the column.
        """

    @abstractmethod
    def content(self, items: Catalogue) -> str:
        """Hash all that decides what `encode` returns beside the settings: weights, texts, files.

        The place of a file does not matter.

        Raises:
            FedRecError: As `encode`, as far as it can be told without encoding.
        """

    def fingerprint(self, items: Catalogue) -> str:
        """Hash all that decides what `encode` returns."""
        kind = type(self)
        settings = self.model_dump(mode="json", exclude={*Encoder.model_fields, *self.paths()})
        code = FORMAT if kind.__module__.partition(".")[0] in OURS else _source(kind)
        values = [code, kind.__module__, kind.__qualname__, settings, self.content(items)]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def is_here(self) -> bool:
        """Return whether all is here that `encode` reads: whether the paths in it exist."""
        return all(path.exists() for path in self.paths().values())

    def paths(self) -> dict[str, Path]:
        """Return the settings that are paths."""
        return {name: value for name, value in self if isinstance(value, Path)}


def check_encoded(encoded: Encoded, items: Catalogue) -> None:
    """Check what an encoder returned.

    Raises:
        DataError: If it has a wrong shape or type, is not finite, or no item has it.
    """
    values, present = encoded.values, encoded.present
    if values.dtype != np.float32 or values.ndim < 2 or len(values) != items.n_items:
        raise DataError(
            f"got {values.dtype} {list(values.shape)}, expected float32 [{items.n_items}, ...]"
        )
    if present.dtype != np.bool_ or present.shape != (items.n_items,):
        raise DataError(
            f"present is {present.dtype} {list(present.shape)}, expected bool [{items.n_items}]"
        )
    is_finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if not is_finite.all():
        item = items.item_ids[np.argmin(is_finite)]
        raise DataError(f"what it has for item '{item}' is not finite")
    if not present.any():
        raise DataError("no item has it")


def _source(kind: type[Any]) -> str:
    """Return the hash of the file that defines a class, which its author may change."""
    file = inspect.getsourcefile(kind)
    return "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
