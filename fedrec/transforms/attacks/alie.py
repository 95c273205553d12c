"""A little is enough: attackers hide within the deviation of honest updates."""

from statistics import NormalDist
from typing import Any, ClassVar

from pydantic import Field

from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.transforms.attacks.base import Attack
from fedrec.transforms.pool import rewritten
from fedrec.types import Params, State


class Alie(Attack):
    r"""Send :math:`\mu - z \sigma`: as far from the mean as many honest clients are, and together.

    Attackers are converted and collude: mean and standard deviation are those of their own honest
    updates, for each row among the attackers that touched it. Not targeted.

    Args:
        z: How far; None: as far as makes a majority with the honest clients beyond it, see
            `deviations`, but at least 1.

    Reference: baruch2019little, Algorithm 3. Its z is near zero, or negative, for a few attackers;
    at least 1 is our choice.
    """

    reference: ClassVar[str] = "baruch2019little"

    z: float | None = Field(None, gt=0)

    def without_effect(self, run: Any) -> list[str]:
        """Say that an attacker alone knows no deviation."""
        lines = super().without_effect(run)
        n = run.split.n_clients
        if run.experiment.rounds.clients_of(n) * len(run.attackers) < 2 * n:
            lines.append(
                "name: alie has no effect in most rounds: it is the deviation of several attackers "
                "that hides them; raise share, or rounds.cohort_size"
            )
        return lines

    def rewrite(
        self, state: State, pool: UpdateBatch, params: Params, context: RoundContext
    ) -> tuple[State, UpdateBatch]:
        """Return the same for all attackers that touched a row."""
        z = self.z or max(deviations(len(context.cohort), len(pool.client_ids)), 1.0)
        return state, rewritten(pool, lambda values: values.mean - z * values.std)


def deviations(clients: int, attackers: int) -> float:
    """Return beyond how many standard deviations the supporters lie that attackers need.

    With ``clients // 2 + 1 - attackers`` honest clients (at least one) on their side the attackers
    are a majority. Where no honest client is left on the other side it is minus infinity.
    """
    honest = clients - attackers
    others = honest - max(clients // 2 + 1 - attackers, 1)
    return NormalDist().inv_cdf(others / honest) if others > 0 else float("-inf")
