"""Shilling: fake profiles that hold the target items, trained on honestly."""

from typing import ClassVar

import numpy as np

from fedrec.compute.context import RoundContext
from fedrec.transforms.attacks.injection import Injection, random_items
from fedrec.types import IntArray, Split


class RandomShilling(Injection):
    """Add clients that have the targets and random items, and train as all others do.

    They know the catalogue only. Each has a profile of its own.

    Reference: lam2004shilling.
    """

    reference: ClassVar[str] = "lam2004shilling"
    needs_targets: ClassVar[bool] = True

    def profile(
        self, split: Split, context: RoundContext, generator: np.random.Generator
    ) -> IntArray:
        """Return the targets and random items."""
        size = self.rows // 2 - len(context.targets)
        return np.concatenate([context.targets, random_items(split, context, generator, size)])


class PopularShilling(Injection):
    """Add clients that have the targets and the most popular items, and train as all others do.

    They know which items honest clients train on most often. All have the same profile.

    Reference: rong2022fedrecattack, section V-A, where it is a baseline.
    """

    reference: ClassVar[str] = "rong2022fedrecattack"
    needs_targets: ClassVar[bool] = True

    def profile(
        self, split: Split, context: RoundContext, generator: np.random.Generator
    ) -> IntArray:
        """Return the targets and the most popular items."""
        by_count = np.argsort(-split.train_counts()[: split.n_drawn], kind="stable")
        others = by_count[~np.isin(by_count, context.targets)]
        return np.concatenate([context.targets, others[: self.rows // 2 - len(context.targets)]])
