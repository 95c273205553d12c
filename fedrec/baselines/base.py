"""What a centralised baseline is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TypeAlias

from fedrec.plugins import Plugin
from fedrec.types import FloatArray, IntArray, Split

__all__ = ["Baseline", "Scorer"]


Scorer: TypeAlias = Callable[[IntArray], FloatArray]
"""From user indices, int64 [b], to their scores for the whole catalogue, float32 [b, n_items]."""


class Baseline(Plugin):
    """A centralised method to compare with; it sees everybody's train items."""

    @abstractmethod
    def fit(self, split: Split, seed: int) -> Scorer:
        """Learn from the train items of all users.

        Args:
            split: The data; only ``split.train`` may be looked at.
            seed: The run's seed.
        """
