"""Attackers send the opposite of their honest update."""

from typing import ClassVar

from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.transforms.attacks.base import Attack
from fedrec.transforms.pool import rewritten
from fedrec.types import Params, State


class SignFlip(Attack):
    """Send the opposite of the honest update.

    Attackers are converted, and know nothing but their own data. Not targeted.

    Reference: li2019rsa.
    """

    reference: ClassVar[str] = "li2019rsa"

    def rewrite(
        self, state: State, pool: UpdateBatch, params: Params, context: RoundContext
    ) -> tuple[State, UpdateBatch]:
        """Return the negative of each change."""
        return state, rewritten(pool, lambda values: -values.honest)
