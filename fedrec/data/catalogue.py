"""What is known of the items beside who took them: ids, columns, frozen features, tokens."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import ConfigError, did_you_mean
from fedrec.ragged import Ragged
from fedrec.storage.files import checksum_of
from fedrec.types import FloatArray, IntArray, Split, TextArray


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """The items of a run, in the order of their indices.

    Every process of a run has the same one, and knows it by its hash. It never travels with an
    update. Two catalogues are equal if their hashes are.

    Args:
        item_ids: text [n_items], the raw ids.
        item_columns: per name, text [n_items].
        features: per name, float32 [n_items, ...], frozen; 0 for an item that has none.
        present: per name of ``features``, bool [n_items]: whether the item has it.
        tokens: per name, one row per item: numbers of words.
        hash: of all of these.
    """

    item_ids: TextArray
    item_columns: Mapping[str, TextArray] = field(default_factory=dict)
    features: Mapping[str, FloatArray] = field(default_factory=dict)
    present: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    tokens: Mapping[str, Ragged] = field(default_factory=dict)
    hash: str = ""

    @classmethod
    def of(
        cls,
        split: Split,
        features: Mapping[str, FloatArray] | None = None,
        present: Mapping[str, NDArray[np.bool_]] | None = None,
        tokens: Mapping[str, Ragged] | None = None,
    ) -> "Catalogue":
        """Return the catalogue of a split, with features and tokens of its items.

        Args:
            split: Names the items.
            features: See the class.
            present: See the class; all items where it is left out.
            tokens: See the class.
        """
        features, tokens = features or {}, tokens or {}
        everywhere = np.ones(split.n_items, np.bool_)
        present = {name: (present or {}).get(name, everywhere) for name in features}
        arrays = {f"features.{name}": np.asarray(value) for name, value in features.items()}
        arrays |= {f"present.{name}": value for name, value in present.items()}
        for name, rows in tokens.items():
            arrays |= {f"offsets.{name}": rows.offsets, f"values.{name}": rows.values}
        columns = {"": split.item_ids, **split.item_columns}
        texts = {name: json.dumps([*map(str, column)]) for name, column in columns.items()}
        hashed = checksum_of(arrays, texts)
        return cls(split.item_ids, split.item_columns, features, present, tokens, hashed)

    @classmethod
    def empty(cls) -> "Catalogue":
        """Return a catalogue without items, for a model that does not look at them."""
        return cls(np.zeros(0, object))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Catalogue) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    @property
    def domain(self) -> IntArray | None:
        """Return a number for the text that the column ``domain`` has for each item, int64."""
        if "domain" not in self.item_columns:
            return None
        texts = self.item_columns["domain"].astype(str)
        return np.asarray(np.unique(texts, return_inverse=True)[1], np.int64)

    def feature(self, name: str) -> FloatArray:
        """Return a feature, float32 [n_items, ...].

        Raises:
            ConfigError: If there is none of that name; it says which there are.
        """
        if name not in self.features:
            advice = did_you_mean(name, self.features) or "; declare it in the section features"
            raise ConfigError(f"the items have no feature '{name}'{advice}")
        return self.features[name]

    def width(self, name: str) -> int:
        """Return the numbers that a feature has for each item.

        Raises:
            ConfigError: As `feature`.
        """
        return int(np.prod(self.feature(name).shape[1:], dtype=np.int64))
