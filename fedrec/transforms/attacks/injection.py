"""Attackers that join as clients, with made-up data."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from fedrec.compute.context import RoundContext
from fedrec.data.altered import with_clients
from fedrec.errors import ConfigError
from fedrec.plugins import Count
from fedrec.ragged import Ragged
from fedrec.transforms.attacks.base import Attack
from fedrec.types import IntArray, Split


class Injection(Attack):
    r"""Base of attacks by clients that are added, of one user each.

    What these users have is a profile of ``rows`` / 2 items; their columns are those of honest
    users, drawn at random.

    Args:
        rows: :math:`\kappa`, the rows of the item table that an attacker sends where it makes them
            up. One that trains honestly touches the items of its profile and their negatives.
    """

    added: ClassVar[bool] = True

    rows: Count = 60

    @abstractmethod
    def profile(
        self, split: Split, context: RoundContext, generator: np.random.Generator
    ) -> IntArray:
        """Return the train items of an attacker, int64 [rows // 2], distinct.

        Args:
            split: The data of honest clients.
            context: The run, with the targets.
            generator: For this attack; attackers take turns.
        """

    def on_data(self, split: Split, context: RoundContext) -> Split:
        """Return the data with the attackers behind the honest clients.

        Raises:
            ConfigError: If a profile has no place for the targets, or more items than there are.
        """
        size, targets, name = self.rows // 2, len(context.targets), type(self).__name__
        if not max(1, targets) <= size <= split.n_drawn // 2:
            raise ConfigError(
                f"transforms: {name} with rows: {self.rows} makes profiles of {size} items, "
                f"expected from {max(1, targets)}, the targets, to {split.n_drawn // 2}, half of "
                "the items that are trained on; change rows"
            )
        generator = context.generator("profiles")
        n = self.count(split.n_clients)
        profiles = [np.sort(self.profile(split, context, generator)) for _ in range(n)]
        like = generator.choice(split.n_users, n)
        train = Ragged(np.arange(n + 1) * size, np.concatenate(profiles))
        return with_clients(split, train, like, "attacker")


def random_items(
    split: Split, context: RoundContext, generator: np.random.Generator, size: int
) -> IntArray:
    """Return items that are no targets, drawn without replacement, int64 [size]."""
    others = np.setdiff1d(np.arange(split.n_drawn), context.targets)
    return np.asarray(generator.choice(others, size, replace=False))
