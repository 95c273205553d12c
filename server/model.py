"""What the server trains: the shared parameters, and what strategy and attackers remember."""

from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np
import torch

from fedrec.aggregation.codec import payload_bytes
from fedrec.aggregation.mix import packed
from fedrec.aggregation.reduce import sorted_by_client
from fedrec.aggregation.returned import (
    checked_aggregate,
    checked_apply,
    checked_broadcast,
    checked_groups,
    checked_init,
    checked_sum,
    merged,
    stored_state,
)
from fedrec.aggregation.update import Aggregate, Aggregates, Down, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.config.experiment import Experiment
from fedrec.errors import EngineError
from fedrec.ragged import Ragged
from fedrec.training.client_rule import client_rule_of
from fedrec.transforms.pipeline import transformed
from fedrec.types import IntArray, Params, Split, State
from server.plans.base import Replies
from server.replies import Expected
from server.roster import Roster
from strategies.base import strategy_of
from strategies.selections.base import selection_of

_STRATEGY, _ATTACK = "strategy", "attack"
"""Parts of the state."""


class ServerModel:
    """The shared parameters, and the strategy that makes the next ones of updates.

    Args:
        experiment: What is run.
        params: The initial shared parameters.
        roster: Who hosts whom.
        split: The data of honest clients, of which attackers take what they are said to know.
        context: The run, before its first round.

    Attributes:
        params: The shared parameters.
        attackers: int64, the clients that attack.
    """

    def __init__(
        self,
        experiment: Experiment,
        params: Params,
        roster: Roster,
        split: Split,
        context: RoundContext,
    ) -> None:
        self.strategy = strategy_of(experiment)
        self.params = params
        self._experiment, self._roster = experiment, roster
        self._rule = client_rule_of(self.strategy)
        self._state = checked_init(self.strategy, params, context)
        self._attackers_state, self.attackers = State(), np.zeros(0, np.int64)
        if (attack := experiment.attack) is not None:
            self.attackers = attack.attackers(context)
            where, state = f"attack {type(attack).__name__}", attack.init(split, context)
            self._attackers_state = stored_state(f"{where}: init", state)

    def states(self) -> dict[str, State]:
        """Return all that is remembered beside the parameters, by who remembers it."""
        return {_STRATEGY: self._state, _ATTACK: self._attackers_state}

    def restore(self, params: Params, state: State) -> None:
        """Take parameters and state from a checkpoint."""
        self.params, self._state = params, state.part(_STRATEGY)
        self._attackers_state = state.part(_ATTACK)

    def sent(self, tables: Collection[str]) -> Expected:
        """Return what clients send in every round.

        Args:
            tables: Names of the parameters that are item tables.
        """
        shapes, of_items = dict[str, tuple[int, ...]](), list[str]()
        for name, value in self.params.items():
            parts = [name, *(f"{name}/{kind}" for kind in self._rule.up)]
            shapes |= dict.fromkeys(parts, np.shape(value))
            of_items += parts if name in tables else []
        metrics = {"loss", "examples", *getattr(self.strategy, "measures", ())}
        reports = "loss" in selection_of(self._experiment).needs
        largest, rates = self._experiment.rounds.largest_change, dict.fromkeys(self.params, 1.0)
        extras = self._rule.extras({name: torch.ones(1) for name in self.params}, rates)
        each = self.strategy.sees_each
        return Expected(shapes, of_items, metrics, reports, largest, extras, each)

    def down(self, clients: IntArray, context: RoundContext) -> Down:
        """Return what some clients are sent to train with: int64 [c], sorted."""
        strategy, rule = self.strategy, self._rule
        return checked_broadcast(strategy, rule, self._state, self.params, clients, context)

    def groups(self, clients: IntArray) -> IntArray:
        """Return the group of each client, int64 [c]."""
        return checked_groups(self.strategy, self._state, clients)

    def published(self, context: RoundContext) -> Down:
        """Return what all clients need to rank."""
        return self.strategy.published(self._state, self.params, context)

    def stored(self, context: RoundContext) -> Params:
        """Return what the run leaves behind as its model."""
        return packed(self.published(context))

    def notes(self) -> list[str]:
        """Return what the user must know at the end."""
        return self.strategy.notes(self._state)

    def sums(self, replies: Replies) -> dict[int, Aggregate]:
        """Return the sum of the updates of each group; of each node where they stay apart."""
        return self.merged(
            {reply.number if self.strategy.by_node else group: aggregate}
            for reply in replies.usable
            for group, aggregate in reply.trained.aggregates.items()
        )

    def merged(self, parts: Iterable[Aggregates]) -> dict[int, Aggregate]:
        """Return sums of updates, each by group, added up."""
        aggregates: dict[int, Aggregate] = {}
        for part in parts:
            for group, aggregate in part.items():
                aggregates[group] = merged(self.strategy, aggregates.get(group), aggregate)
        return aggregates

    def apply(
        self, replies: Replies, given: Aggregates | None, context: RoundContext
    ) -> tuple[dict[int, Aggregate], int]:
        """Apply the updates of a round.

        Args:
            replies: What came back.
            given: What is applied; None: the sums of the replies.
            context: The round.

        Returns:
            What was applied, by group, and the bytes that attackers sent.

        Raises:
            EngineError: If no client succeeded.
        """
        aggregates = dict(self.sums(replies) if given is None else given)
        answers = [reply.trained.attackers for reply in replies.usable]
        pool, uploaded = [each for each in answers if each is not None], 0
        if pool:
            uploaded = self._rewrite(sorted_by_client(pool), aggregates, context)
        if not aggregates:
            raise EngineError(f"round {context.round}: no client of the cohort succeeded")
        for transform in self._experiment.transforms:
            where = f"transform {type(transform).__name__}: on_aggregate"
            for group, aggregate in aggregates.items():
                returned = transform.on_aggregate(aggregate, context)
                aggregates[group] = checked_aggregate(where, returned, aggregate)
        aggregates = dict(sorted(aggregates.items()))
        self._state, self.params = checked_apply(
            self.strategy, self._state, self.params, aggregates, context
        )
        return aggregates, uploaded

    def _rewrite(
        self, pool: UpdateBatch, aggregates: dict[int, Aggregate], context: RoundContext
    ) -> int:
        """Let attackers rewrite their updates, and add them to the sums; return their bytes."""
        attack = self._experiment.attack
        assert attack is not None
        self._attackers_state, update = attack.sent(
            self._attackers_state, pool, self.params, context
        )
        _, behind = self._experiment.transforms_around()
        nothing = Ragged(np.zeros(len(update.client_ids) + 1, np.int64), np.zeros(0, np.int64))
        update, _ = transformed(behind, update, {}, nothing, context)
        uploaded = int(payload_bytes(update).sum())
        update = update.decoded()
        groups = self.groups(update.client_ids).copy()
        for answer in self._roster.values() if self.strategy.by_node else ():
            groups[np.isin(update.client_ids, answer.clients)] = answer.partition
        for group in np.unique(groups).tolist():
            of_group = update.take(np.flatnonzero(groups == group))
            n = len(of_group.client_ids)
            aggregate = checked_sum(self.strategy, "reduce", n, of_group)
            # The loss of the run is that of honest clients.
            aggregate = replace(aggregate, metrics=dict.fromkeys(aggregate.metrics, 0))
            aggregates[group] = merged(self.strategy, aggregates.get(group), aggregate)
        return uploaded
