"""The data that a transform returns is that of the same honest users and items."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from fedrec.compute.context import RoundContext
from fedrec.data.altered import of_clients, with_train_items
from fedrec.errors import ConfigError
from fedrec.ragged import Ragged
from fedrec.testing.trial import small_split
from fedrec.transforms.attacks.base import Attack
from fedrec.transforms.attacks.label_flip import LabelFlip
from fedrec.transforms.base import Transform
from fedrec.transforms.data import changed_data
from fedrec.types import Split

SPLIT = small_split()
CONTEXT = RoundContext(0, 0, SPLIT.n_clients, SPLIT.n_items)
NOBODY = Ragged(np.zeros(SPLIT.n_users + 1, np.int64), np.zeros(0, np.int64))
RETURNS: dict[str, Any] = {}


class Returning(Transform):
    """Returns what the test says."""

    def on_data(self, split: Split, context: RoundContext) -> Any:
        return RETURNS["change"](split)


class Converted(Attack):
    """Returns what the test says."""

    def on_data(self, split: Split, context: RoundContext) -> Any:
        return RETURNS["change"](split)


class Added(Converted):
    """Has attackers that are additional clients."""

    added: ClassVar[bool] = True


class Unnamed(Converted):
    """Names no clients."""

    def attackers(self, context: RoundContext) -> Any:
        return None


def without_row(split: Split, user: int) -> Split:
    """A split in which nothing is held out of a user, who trains on what it had."""
    row = slice(*split.train.offsets[user : user + 2])
    items, places = [split.train.values[row]], [np.arange(row.start, row.stop)]
    return with_train_items(split, np.array([user]), items, places)


REFUSED: list[tuple[type[Transform], Callable[[Split], Any], str]] = [
    (Returning, lambda _: None, "on_data returned None, expected a Split"),
    (Returning, lambda split: split.train, "on_data returned Ragged, expected a Split"),
    (Returning, lambda split: of_clients(split, np.arange(3)), "on_data returned 3 clients, expec"),
    (Returning, lambda split: replace(split, item_ids=split.item_ids[::-1]), "changed item_ids of"),
    (Returning, lambda split: replace(split, user_ids=split.user_ids[::-1]), "changed user_ids of"),
    (Returning, lambda split: replace(split, valid=NOBODY), "on_data changed valid of honest"),
    (Returning, lambda split: replace(split, test=split.valid), "on_data changed test of honest"),
    (Converted, lambda split: replace(split, test=NOBODY), "on_data changed test of honest users"),
    (Added, lambda split: split, "on_data added 0 clients, but attackers names"),
    (Unnamed, lambda split: split, "attackers returned null, expected some of the clients"),
]


@pytest.mark.parametrize(("kind", "change", "said"), REFUSED)
def test_it_is_refused(kind: type[Transform], change: Callable[[Split], Any], said: str) -> None:
    RETURNS["change"] = change
    with pytest.raises(ConfigError, match=rf"^(transform|attack) {kind.__name__}: .*{said}"):
        changed_data(kind(), SPLIT, CONTEXT)


def test_train_items_and_what_attackers_have_may_change() -> None:
    RETURNS["change"] = lambda split: replace(split, train=NOBODY)
    assert not len(changed_data(Returning(), SPLIT, CONTEXT).train.values)
    attacker = int(Converted().attackers_in(SPLIT, 0)[0])
    RETURNS["change"] = lambda split: without_row(split, int(split.clients.row(attacker)[0]))
    assert len(changed_data(Converted(), SPLIT, CONTEXT).test.values) < len(SPLIT.test.values)
    flipped = changed_data(LabelFlip(share=0.3), SPLIT, CONTEXT)
    assert not np.array_equal(flipped.train.values, SPLIT.train.values)
