"""Attackers send a multiple of their honest update."""

from typing import ClassVar

from pydantic import Field

from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.transforms.attacks.base import Attack
from fedrec.transforms.pool import rewritten
from fedrec.types import Params, State


class Scaling(Attack):
    """Send a multiple of the honest update, so that a mean is what the attackers want.

    Attackers are converted, and know how many clients take part in the round. Not targeted.

    Args:
        factor: The multiple; None: the number of clients of the round by that of attackers, with
            which attackers add to a mean over the cohort what would be the mean of them alone.

    Reference: bagdasaryan2020backdoor, model replacement.
    """

    reference: ClassVar[str] = "bagdasaryan2020backdoor"

    factor: float | None = Field(None, gt=0)

    def rewrite(
        self, state: State, pool: UpdateBatch, params: Params, context: RoundContext
    ) -> tuple[State, UpdateBatch]:
        """Return the multiple of each change."""
        factor = self.factor or len(context.cohort) / len(pool.client_ids)
        return state, rewritten(pool, lambda values: factor * values.honest)
