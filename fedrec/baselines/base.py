"""What a centralised baseline is."""

import itertools
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np

from fedrec.data.catalogue import Catalogue
from fedrec.errors import require
from fedrec.plugins import Plugin
from fedrec.ragged import Ragged
from fedrec.types import FloatArray, IntArray, Split

Scorer: TypeAlias = Callable[[IntArray], FloatArray]
"""From user indices, int64 [b], to their scores for the whole catalogue, float32 [b, n_items]."""


class Baseline(Plugin):
    """A centralised method to compare with; it sees everybody's train items."""

    @abstractmethod
    def fit(self, split: Split, seed: int, catalogue: Catalogue | None = None) -> Scorer:
        """Learn from the train items of all users.

        Args:
            split: The data; of the interactions, only ``split.train`` may be looked at.
            seed: The run's seed.
            catalogue: What is known of the items; None: what the split says of them.
        """


class TunableBaseline(Baseline):
    """A baseline whose settings are chosen on validation, unless they are given.

    Attributes:
        grid: Per setting, the values that are tried.
        untuned: Per setting, the value where nothing is tuned.

    Args:
        tune: Choose every setting that is None from the grid, by the experiment's first metric on
            the validation items. False: take the value of ``untuned``.
    """

    grid: ClassVar[Mapping[str, tuple[Any, ...]]]
    untuned: ClassVar[Mapping[str, Any]]

    tune: bool = True

    def open_settings(self) -> tuple[str, ...]:
        """Return the settings that are not given."""
        return tuple(name for name in self.grid if getattr(self, name) is None)

    def candidates(self) -> list[Self]:
        """Return the baseline with every combination of values for the settings not given."""
        names = self.open_settings()
        return [
            self.model_copy(update=dict(zip(names, values, strict=True)))
            for values in itertools.product(*(self.grid[name] for name in names))
        ]

    def settings(self) -> dict[str, Any]:
        """Return the settings, with the untuned values of those not given."""
        given = {name: getattr(self, name) for name in self.grid}
        return {n: self.untuned[n] if value is None else value for n, value in given.items()}


def interaction_matrix(rows: Ragged, n_items: int) -> Any:
    """Return a sparse matrix of ones, CSR float64 [n_users, n_items].

    Args:
        rows: The items of each user.
        n_items: Size of the catalogue.

    Raises:
        MissingExtra: If scipy is not installed.
    """
    require("scipy", "for the baselines")
    from scipy import sparse

    shape = (len(rows), n_items)
    return sparse.csr_matrix((np.ones(len(rows.values)), rows.values, rows.offsets), shape=shape)
