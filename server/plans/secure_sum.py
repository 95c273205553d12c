"""All clients of a round train on the same parameters, and the server sees only their sum."""

import logging
from collections import Counter
from math import ceil
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError, EngineError, ProtocolError, TooFewClients
from fedrec.plugins import name_of
from fedrec.types import State
from server.plans.base import LostNode, PlanServer, Replies, RoundPlan, RoundResult, Steps
from server.plans.sum_attempt import SumAttempt
from strategies.base import Strategy, strategy_of
from strategies.selections.base import selection_of

LOG = logging.getLogger("fedrec")
SMALLEST = 3
"""Clients of a sum: of the sum of two, each knows the other's update."""


class SecureSum(RoundPlan):
    """Sums updates under masks: the server sees the sum of a round, and no client's update.

    The sums, and so the digest and the metrics of a run, are those of the plan `synchronous` with
    the same clients. The server learns the sum, which rows of item tables somebody touched and
    with what weight, the sums of losses and of examples, and which clients dropped out. It must
    follow the protocol: `docs/secure-sum.md` says what is protected and from whom.

    A round has four exchanges: keys, shares of secrets, masked vectors, shares that remove the
    masks. A client that does not answer one of the first three has dropped out. A round of which
    too few clients are left, or whose masks cannot be removed, is tried again with new keys.

    Transforms work as ever: those of a client's update before it is masked, those of the sum
    behind.

    Args:
        threshold: The share of the clients that hold shares of a client's secrets, and more than
            which must be left. A higher one withstands more clients that tell the server their
            secrets; a lower one more drop-outs.
        degree: With how many others a client shares masks and secrets; ``auto``: about four times
            the logarithm of the cohort, to base 2.
        deadline: Seconds that nodes have to answer each exchange; None: no limit. Only on nodes
            that fedrec does not run itself.
        quorum: The share of a round's clients whose nodes must answer, to train and to be
            evaluated.
        retries: How often a round is tried again before the run stops.

    Reference: bonawitz2017practical; bell2020secure
    """

    reference: ClassVar[str] = "bonawitz2017practical"

    threshold: float = Field(0.5, ge=0.5, lt=1)
    degree: Annotated[int, Field(ge=2)] | Literal["auto"] = "auto"
    deadline: float | None = Field(None, gt=0)
    quorum: float = Field(1.0, gt=0, le=1)
    retries: int = Field(2, ge=0)

    @property
    def quorum_of_evaluation(self) -> float:
        """The share of the clients that must answer an evaluation."""
        return self.quorum

    @property
    def deadline_of_evaluation(self) -> float | None:
        """The deadline of an exchange."""
        return self.deadline

    def without_effect(self, run: Any) -> list[str]:
        """Say that a degree is larger than the cohort.

        Raises:
            ConfigError: If the experiment cannot work on sums alone, or a cohort is too small.
        """
        experiment = run.experiment
        for fault in _faults(strategy_of(experiment), experiment):
            raise ConfigError(f"rounds.plan: secure-sum: {fault}")
        size = experiment.rounds.clients_of(run.split.n_clients)
        if size < SMALLEST:
            raise ConfigError(f"rounds.plan: secure-sum: {_too_few('a round', size)}")
        if self.degree != "auto" and self.degree >= size:
            return [
                f"degree: {self.degree} has no effect: a round has {size} clients, so each has "
                f"{size - 1} neighbours; lower it, or leave it out"
            ]
        return []

    def init(self, context: RoundContext) -> State:
        """Log what the server learns; return an empty state."""
        LOG.info(
            "rounds.plan: secure-sum: of the updates of a round the server learns the sum, the "
            "touched rows and their weights in the cohort, the sums of loss and examples, and who "
            "dropped out"
        )
        return State()

    def run(self, state: State, server: PlanServer, context: RoundContext) -> Steps:
        """Sum the updates of the round's clients; try again where that fails."""
        cohort = server.choose(server.size())
        if not len(cohort):
            return RoundResult(state)
        groups = server.groups(cohort)
        for group, size in zip(*np.unique(groups, return_counts=True), strict=True):
            if size < SMALLEST:
                where = f"round {context.round}, group {group} of the strategy"
                raise ConfigError(f"rounds.plan: secure-sum: {_too_few(where, int(size))}")
        counted, lost = Counter[str](), list[LostNode]()
        needed = ceil(self.quorum * len(cohort))
        for number in range(1, 2 + self.retries):
            attempt = SumAttempt(self, server, cohort, groups, needed, number)
            try:
                replies, aggregates = yield from attempt.run()
            except (EngineError, ProtocolError, TooFewClients) as error:
                fault = _explained(error, attempt)
                if number <= self.retries:
                    LOG.warning(
                        f"round {context.round}: attempt {number} at a secure sum failed, the "
                        f"round is tried again with new keys: {fault}"
                    )
                counted += attempt.bytes
                lost += attempt.lost
                continue
            dropped = len(cohort) - sum(each.clients for each in aggregates.values())
            return RoundResult(
                state,
                replies.joined(Replies(lost=(*lost, *attempt.lost))),
                aggregates,
                {"attempts": number, "dropped_out": dropped},
                bytes=counted + attempt.bytes,
            )
        raise EngineError(
            f"round {context.round}: the secure sum failed in {1 + self.retries} attempts "
            f"(rounds.plan.retries: {self.retries}); {fault}"
        )


def _faults(strategy: Strategy, experiment: Any) -> list[str]:
    """Return why an experiment cannot work on sums that come out of a secure sum."""
    name, faults = name_of("strategies", strategy), []
    if strategy.sees_each or strategy.by_node:
        what = "each client" if strategy.sees_each else "each node"
        faults.append(
            f"strategy {name} needs the update of {what}, and the server sees the sum of all; take "
            "one that works on sums, such as fedavg, or plan: synchronous"
        )
    elif type(strategy).merge is not Strategy.merge:
        faults.append(
            f"strategy {name} has a merge of its own, and masked updates can only be added; take "
            "another strategy, or plan: synchronous"
        )
    if (attack := experiment.attack) is not None:
        faults.append(
            f"transform {name_of('transforms', attack)} rewrites the updates of attackers on the "
            "server, which would see them; leave it out, or take plan: synchronous"
        )
    selection = selection_of(experiment)
    if "loss" in selection.needs:
        faults.append(
            f"rounds.selection {name_of('selections', selection)} needs the loss of each client, "
            "and the server sees the sum of all; take uniform, or plan: synchronous"
        )
    return faults


def _too_few(where: str, size: int) -> str:
    return (
        f"{where} has {size} of at least {SMALLEST} clients, fewer would see each other's updates; "
        "raise rounds.cohort_size, or take plan: synchronous"
    )


def _explained(error: Exception, attempt: SumAttempt) -> str:
    """Return what an attempt failed of, with the last node that was lost and a failed client."""
    about = [str(error)]
    about += [str(node.error) for node in attempt.lost[-1:]]
    about += [f"client {each.client} failed: {each.reason}" for each in attempt.failures[:1]]
    return "; ".join(about)
