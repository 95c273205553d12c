"""All clients of a round train on the same parameters, and the server waits for them."""

from math import ceil
from typing import Any

import numpy as np
from pydantic import Field

from fedrec.aggregation.reduce import download_bytes
from fedrec.compute.context import RoundContext
from fedrec.devices.deadlines import Ended, end_of_round
from fedrec.errors import EngineError
from fedrec.runs.log import Virtual
from fedrec.types import IntArray, State
from server.plans.base import Exchange, PlanServer, Replies, RoundPlan, RoundResult, Steps

_SECONDS = "seconds"
"""Of the virtual clock, in the state."""


class Synchronous(RoundPlan):
    """Waits for the clients of a round; those that come too late are left out of it.

    A client that is left out keeps the private parameters that it had before. It is asked again
    when it is chosen again.

    With ``rounds.devices``, simulated clients reply when their devices would; a round lasts until
    the last reply that is waited for. Those that would come too late do not train.

    Args:
        over_selection: clients that are asked beyond those of the round, as a share of them; the
            first to answer are used. Not where simulated clients have no ``rounds.devices``.
        deadline: seconds that clients have to answer, virtual ones with ``rounds.devices``; None:
            no limit. Not where simulated clients have no ``rounds.devices``.
        quorum: the share of a round's clients that must answer, to train and to be evaluated. On a
            virtual clock a round lasts until they have, also beyond the deadline.
        retries: how often clients without an answer are asked again, before the run stops because
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

    @property
    def deadline_of_evaluation(self) -> float | None:
        """The deadline of an exchange."""
        return self.deadline

    def without_effect(self, run: Any) -> list[str]:
        """Say what has no effect where fedrec runs the nodes itself."""
        if run.experiment.rounds.devices is not None:
            why = "on the virtual clock of rounds.devices a round lasts until its quorum answered"
            lines = self.unused(why, "retries")
            if self.quorum == 1:
                lines += self.unused(f"{why}, and quorum: 1 is all; lower it", "deadline")
            return lines
        if run.engine is None or run.engine.name == "flower":
            return []
        why = "simulated clients answer at once; give them rounds.devices"
        return self.unused(why, "over_selection", "deadline")

    def run(self, state: State, server: PlanServer, context: RoundContext) -> Steps:
        """Ask the clients of the round; ask those again that did not answer."""
        size, has_time = server.size(), server.in_real_time or server.timing is not None
        beyond = self.over_selection if has_time else 0.0
        asked = server.choose(min(ceil(size * (1 + beyond)), context.n_clients))
        wanted = min(size, len(asked))
        needed = ceil(self.quorum * wanted)
        ended = self._ended(state, server, asked, wanted, needed)
        waited = asked if ended is None else ended.replied
        replies = Replies()
        for _ in range(1 + self.retries):
            missing = np.setdiff1d(waited, replies.clients)
            if len(replies.clients) >= needed or not len(missing):
                break
            enough = wanted - len(replies.clients) if beyond else None
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
        if ended is None:
            return RoundResult(state, replies)
        late = ended.stragglers
        return RoundResult(
            State({}, {_SECONDS: ended.time}),
            replies,
            virtual=Virtual(seconds=ended.time, stragglers=len(late)),
            bytes={"down": len(late) * download_bytes(server.down(late)) if len(late) else 0},
        )

    def _ended(
        self, state: State, server: PlanServer, asked: IntArray, wanted: int, needed: int
    ) -> Ended | None:
        """Return when the round ends on the virtual clock, and with whom; None if none runs."""
        if server.timing is None:
            return None
        start = float(state.values.get(_SECONDS, 0.0))
        arrivals = server.timing.arrivals(asked, start)
        return end_of_round(asked, arrivals, start, wanted, self.deadline, needed)
