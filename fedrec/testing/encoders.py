"""The contracts of encoders of items."""

from dataclasses import replace
from unittest import SkipTest

import numpy as np

from fedrec.data.catalogue import Catalogue
from fedrec.features.base import Encoded, Encoder, check_encoded
from fedrec.testing.trial import require

WORDS = ("red", "sea", "green", "hill", "old", "town")
N_ITEMS = 12


def _items(encoder: Encoder) -> Catalogue:
    """Return items with texts of unequal length in the columns that an encoder names.

    Raises:
        SkipTest: If it reads files, which are of other items.
    """
    if encoder.paths():
        raise SkipTest("it reads files, which have no such items")
    names = getattr(encoder, "columns", ()) or ("title",)
    texts = [" ".join(WORDS[: 1 + n % len(WORDS)]) + f" {n}" for n in range(N_ITEMS)]
    columns = {name: np.array(["", *texts[1:]], object) for name in names}
    return Catalogue(np.array([f"i{n}" for n in range(N_ITEMS)], object), columns)


def _encoded(encoder: Encoder, items: Catalogue) -> Encoded:
    encoded = encoder.encode(items, lambda *_: None)
    check_encoded(encoded, items)
    return encoded


def rows_fit_the_items(encoder: Encoder) -> None:
    """Return a finite float32 row for each item, 0 for one that has none."""
    encoded = _encoded(encoder, _items(encoder))
    require(not encoded.values[~encoded.present].any(), "an item that has none has numbers")


def encoding_twice_gives_the_same(encoder: Encoder) -> None:
    """Encode the same items twice alike, and say that they are the same."""
    items = _items(encoder)
    one, other = _encoded(encoder, items), _encoded(encoder, items)
    require(np.array_equal(one.values, other.values), "the numbers differ at the second time")
    prints = {encoder.fingerprint(items) for _ in range(2)}
    require(len(prints) == 1, "content gives another hash at the second time")


def an_items_row_is_its_own(encoder: Encoder) -> None:
    """Encode an item alike in any company, but for rounding."""
    items = _items(encoder)
    expected, order = _encoded(encoder, items), np.random.default_rng(0).permutation(N_ITEMS)[:7]
    columns = {name: texts[order] for name, texts in items.item_columns.items()}
    some = _encoded(encoder, Catalogue(items.item_ids[order], columns))
    require(np.array_equal(some.present, expected.present[order]), "others have it among fewer")
    difference = float(np.abs(some.values - expected.values[order]).max())
    limit = 1e-4 * float(np.abs(expected.values).max())
    require(difference <= limit, f"rows differ by {difference:.3g} among fewer items")


def what_is_encoded_is_in_the_hash(encoder: Encoder) -> None:
    """Give another hash where other texts give other numbers, so that no old ones are used."""
    items = _items(encoder)
    columns = {name: texts + " new" for name, texts in items.item_columns.items()}
    other = replace(items, item_columns=columns)
    before, after = _encoded(encoder, items).values, _encoded(encoder, other).values
    if np.array_equal(before, after):
        raise SkipTest("its numbers do not depend on the columns")
    prints = encoder.fingerprint(items), encoder.fingerprint(other)
    require(prints[0] != prints[1], "content does not hash the texts that decide the numbers")


ENCODER_CONTRACTS = (
    rows_fit_the_items,
    encoding_twice_gives_the_same,
    an_items_row_is_its_own,
    what_is_encoded_is_in_the_hash,
)
