"""Inner product manipulation: the sum of all updates points away from the honest one."""

from typing import ClassVar

from pydantic import Field

from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.transforms.attacks.base import Attack
from fedrec.transforms.pool import rewritten
from fedrec.types import Params, State


class Ipm(Attack):
    r"""Send :math:`-\epsilon \mu`, a multiple of the opposite of the mean.

    Attackers are converted and collude: the mean is that of their own honest updates, for each row
    of the attackers that touched it. Not targeted.

    Args:
        epsilon: The multiple. With f attackers among n clients, a mean over all changes its sign
            above (n - f) / f; a small one is hard to tell from honest updates.

    Reference: xie2020fall.
    """

    reference: ClassVar[str] = "xie2020fall"

    epsilon: float = Field(0.1, gt=0)

    def rewrite(
        self, state: State, pool: UpdateBatch, params: Params, context: RoundContext
    ) -> tuple[State, UpdateBatch]:
        """Return the same for all attackers that touched a row."""
        return state, rewritten(pool, lambda values: -self.epsilon * values.mean)
