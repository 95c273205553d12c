"""All clients of a round train on the same parameters, and the server waits for them."""

from math import ceil

import numpy as np
from pydantic import Field

from fedrec.compute.context import RoundContext
from fedrec.errors import EngineError
from fedrec.types import State
from server.plans.base import Exchange, PlanServer, Replies, RoundPlan, RoundResult, Steps


class Synchronous(RoundPlan):
    """Waits for the clients of a round; those that come too late are left out of it.

    A client that is left out keeps the private parameters that it had before. It is asked again
    when it is chosen again.

    Args:
        over_selection: Clients that are asked beyond those of the round, as a share of them; the
            first to answer are used. Only on nodes that fedrec does not run itself.
        deadline: Seconds that nodes have to answer; None: no limit. Only on nodes that fedrec does
            not run itself.
        quorum: The share of a round's clients that must answer, to train and to be evaluated.
        retries: How often clients without an answer are asked again, before the run stops because
            the quorum is missed.

    Reference: bonawitz2019towards
    """

    over_selection: float = Field(0.0, ge=0, le=1)
    deadline: float | None = Field(None, gt=0)
    quorum: float = Field(1.0, gt=0, le=1)
    retries: int = Field(0, ge=0)

    @property
    def quorum_of_evaluation(self) -> float:
        """The share of the clients that must answer an evaluation."""
        return self.quorum

    def run(self, state: State, server: PlanServer, context: RoundContext) -> Steps:
        """Ask the clients of the round; ask those again that did not answer."""
        size = server.size()
        asked = server.choose(min(ceil(size * (1 + self.over_selection)), context.n_clients))
        wanted = min(size, len(asked))
        needed = ceil(self.quorum * wanted)
        replies = Replies()
        for _ in range(1 + self.retries):
            missing = np.setdiff1d(asked, replies.clients)
            if len(replies.clients) >= needed or not len(missing):
                break
            enough = wanted - len(replies.clients) if self.over_selection else None
            replies = replies.joined(
                (yield Exchange(missing, server.down(missing), self.deadline, enough))
            )
        if (answered := len(replies.clients)) < needed:
            if self.quorum == 1:
                raise replies.lost[-1].error
            raise EngineError(
                f"round {context.round}: {answered} of {wanted} clients answered, and "
                f"rounds.plan.quorum needs {needed}; {replies.lost[-1].error}"
            )
        return RoundResult(state, replies)
