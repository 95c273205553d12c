"""What a strategy is: a value that turns updates into the next global parameters.

A strategy is pure: no transport, no clock, no randomness of its own. Its server half is `init`,
`groups`, `broadcast`, `reduce`, `merge` and `apply`; `reduce` runs on the nodes, so that one sum
travels and not each client's update. Its `client_rule` is what it asks of local training.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from fedrec.aggregation.reduce import (
    Summing,
    Weighting,
    join_each,
    keep_each,
    merge_sums,
    reduce_sums,
)
from fedrec.errors import ConfigError
from fedrec.plugins import Defaults, Plugin
from fedrec.training.client_rule import ClientRule
from fedrec.types import Aggregate, IntArray, Params, State, UpdateBatch

__all__ = ["State", "Strategy"]


class Strategy(Plugin):
    """Base of all strategies.

    Attributes:
        needs: ``sums`` if it can work on sums of updates, ``each`` if it needs every client's.
    """

    needs: ClassVar[Literal["sums", "each"]] = "sums"

    # Plain steps along the sum of a client's gradients: dense layers diverge at the rate of 1 that
    # serves the rows of an item table.
    defaults: ClassVar[Defaults] = {"train": {"optimizers": {"shared": {"lr": 0.01}}}}

    renamed: ClassVar[Mapping[str, str]] = {"denominator": "average: per_row, cohort or sum"}

    weighting: Weighting = "uniform"

    def without_effect(self, experiment: Any, split: Any) -> list[str]:
        """Say that weights are not used where updates are only added up."""
        return self.unused("updates are added up unweighted", "weighting") * self.sums_unweighted

    @property
    def sums_unweighted(self) -> bool:
        """Whether updates are added up unweighted, whatever the weighting."""
        return False

    @property
    def client_rule(self) -> ClientRule:
        """What it asks of the clients' training; plain training by default."""
        return ClientRule()

    def init(self, params: Params, n_clients: int) -> State:
        """Return the state before the first round; empty by default.

        Args:
            params: The initial global parameters.
            n_clients: All clients of the run.
        """
        return State()

    def groups(self, state: State, client_ids: IntArray) -> IntArray:
        """The group of each client; all in group 0 by default.

        Args:
            state: From `init` or the last round.
            client_ids: int64 [c].

        Returns:
            int64 [c], numbers from 0.
        """
        return np.zeros(len(client_ids), np.int64)

    def broadcast(self, state: State, params: Params, group: int) -> Params:
        """What the clients of a group are sent to train or rank with.

        Args:
            state: From `init` or the last round.
            params: The global parameters.
            group: Of `groups`.

        Returns:
            Every global parameter and whatever `client_rule` asks to have sent down.
        """
        return params

    def published(self, state: State, params: Params, n_clients: int) -> Params:
        """What a run leaves behind as its model: all that is needed to rank.

        With groups: the parameters of group g under ``NAME@g``, and ``group`` int32 [n_clients].

        Args:
            state: After the last round.
            params: The global parameters.
            n_clients: All clients.
        """
        group = self.groups(state, np.arange(n_clients, dtype=np.int64))
        if not group.any():
            sent = self.broadcast(state, params, 0)
            return {name: sent[name] for name in params}
        found = {**params, "group": group.astype(np.int32)}
        for number in np.unique(group).tolist():
            sent = self.broadcast(state, params, number)
            found |= {f"{name}@{number}": sent[name] for name in params}
        return found

    @property
    def summing(self) -> Summing | None:
        """How rows may be summed as soon as they are trained; None if `reduce` is to see them."""
        if self.needs == "each" or type(self).reduce is not Strategy.reduce:
            return None
        return Summing(self.weighting, weighted=not self.sums_unweighted)

    def reduce(self, batch: UpdateBatch) -> Aggregate:
        """Sum some clients' updates, or keep each; runs on the node.

        Raises:
            NumericError: If an update is not finite or a sum overflows.
        """
        if self.needs == "each":
            return keep_each(batch)
        return reduce_sums(batch, Summing(self.weighting, weighted=not self.sums_unweighted))

    def merge(self, a: Aggregate, b: Aggregate) -> Aggregate:
        """Join two partial results; associative and commutative, bit for bit."""
        return join_each(a, b) if self.needs == "each" else merge_sums(a, b)

    def apply_groups(
        self, state: State, params: Params, aggregates: Mapping[int, Aggregate]
    ) -> tuple[State, Params]:
        """Return the next state and shared parameters, from the aggregate of each group.

        Args:
            state: From `init` or the last round.
            params: The global parameters.
            aggregates: Per group that had clients in the round. By default there is one, group 0.

        Raises:
            ConfigError: If there are several groups, and the strategy does not define this.
        """
        if len(aggregates) > 1:
            raise ConfigError(
                f"strategy: {type(self).__name__} has clients in {len(aggregates)} groups, but no "
                "apply_groups of its own; define it"
            )
        (aggregate,) = aggregates.values()
        return self.apply(state, params, aggregate)

    @abstractmethod
    def apply(self, state: State, params: Params, aggregate: Aggregate) -> tuple[State, Params]:
        """The next state and global parameters.

        Args:
            state: From `init` or the last round.
            params: The global parameters, float32.
            aggregate: All updates of the round.

        Returns:
            New values; the arguments stay as they are.
        """
