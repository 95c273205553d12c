"""Target items: those that an attack promotes, and whose exposure is measured."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fedrec.errors import ConfigError
from fedrec.plugins import Count, Section
from fedrec.ragged import Ragged, offsets_of
from fedrec.seeds import Purpose, bits
from fedrec.types import IntArray, Shard, Split

UNPOPULAR_SHARE = 0.1


class DrawnTargets(Section):
    """Draw the target items with the seed of the run.

    Args:
        choose: ``unpopular``: uniformly among the tenth of the items with the fewest train
            interactions, and all that have as few as the last of them; ``random``: uniformly. Both
            among the items that somebody trains on.
        count: how many.
    """

    choose: Literal["unpopular", "random"]
    count: Count = 1

    def draw(self, split: Split, seed: int) -> IntArray:
        """Return the items, int64 [count], sorted.

        Raises:
            ConfigError: If there are fewer.
        """
        counts = split.train_counts()
        pool = np.flatnonzero(counts)
        if self.choose == "unpopular":
            last = max(1, round(UNPOPULAR_SHARE * len(pool))) - 1
            pool = pool[counts[pool] <= np.sort(counts[pool])[last]]
        if self.count > len(pool):
            raise ConfigError(
                f"evaluate.targets.count: {self.count} items are more than the {len(pool)} that "
                f"'{self.choose}' chooses from; lower it"
            )
        hashed = bits(seed, Purpose.TARGETS, 0, pool, np.zeros_like(pool))
        return np.sort(pool[np.argsort(hashed, kind="stable")[: self.count]])


def items_named(split: Split, ids: Sequence[str]) -> IntArray:
    """Return the items with some raw ids, int64 [n], sorted.

    Raises:
        ConfigError: If the data has no such item.
    """
    place = {item: at for at, item in enumerate(split.item_ids.tolist())}
    for item in ids:
        if item not in place:
            raise ConfigError(
                f"evaluate.targets: item '{item}' is not in the data; its ids are such as "
                f"'{split.item_ids[0]}' and '{split.item_ids[-1]}'"
            )
    return np.sort(np.array([place[item] for item in ids], np.int64))


def eligible_targets(rows: Split | Shard, targets: IntArray) -> Ragged:
    """Return the targets that are in none of a user's train, validation and test items.

    Args:
        rows: the users and their items.
        targets: int64 [t], sorted.

    Returns:
        One row per user, sorted.
    """
    has_none = np.ones((len(rows.train), len(targets)), np.bool_)
    places = np.full(rows.n_items, -1, np.int64)
    places[targets] = np.arange(len(targets))
    for part in (rows.train, rows.valid, rows.test):
        at = places[part.values]
        has_none[part.owners()[at >= 0], at[at >= 0]] = False
    return Ragged(offsets_of(has_none.sum(axis=1)), targets[np.nonzero(has_none)[1]])
