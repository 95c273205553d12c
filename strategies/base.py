"""What a strategy is: a value that turns updates into the next global parameters.

A strategy is pure: no transport, no clock, no randomness of its own. The server calls `init`,
`groups`, `broadcast`, `merge` and `apply`; `reduce` runs on the nodes, so that one sum
travels and not each client's update. `client_rule` is what it asks of local training.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from fedrec.aggregation.reduce import (
    Average,
    Summing,
    Weighting,
    keep_each,
    mean_update,
    merge,
    reduce_sums,
    stepped,
)
from fedrec.errors import ConfigError, NumericError
from fedrec.plugins import Defaults, Plugin
from fedrec.training.client_rule import ClientRule
from fedrec.types import Aggregate, IntArray, Params, State, UpdateBatch

if TYPE_CHECKING:
    from fedrec.config.experiment import Experiment

__all__ = ["Averaging", "State", "Strategy", "strategy_of"]


class Strategy(Plugin):
    """Base of all strategies.

    Attributes:
        needs: ``sums`` if it can work on sums of updates, ``each`` if it needs every client's.
    """

    needs: ClassVar[Literal["sums", "each"]] = "sums"

    # Plain steps along the sum of a client's gradients: dense layers diverge at the rate of 1 that
    # serves the rows of an item table.
    defaults: ClassVar[Defaults] = {"train": {"optimizers": {"shared": {"lr": 0.01}}}}

    renamed: ClassVar[Mapping[str, str]] = {
        "denominator": "strategy.average: per_row, cohort or sum"
    }

    weighting: Weighting = "uniform"

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Refuse a class that needs what there is not, or publishes what is not ranked with."""
        if cls.needs not in ("sums", "each"):
            raise ConfigError(f"strategy {cls.__qualname__}: expected needs = 'sums' or 'each'")
        if cls.published is not Strategy.published:
            raise ConfigError(
                f"strategy {cls.__qualname__}: leave out published: a run leaves behind what its "
                "clients rank with, which groups and broadcast say"
            )

    @property
    def _summed(self) -> Summing:
        return Summing(self.weighting)

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
        """Return the group of each client, int64 [c] from 0; by default all are in group 0.

        Args:
            state: From `init` or the last round.
            client_ids: int64 [c].
        """
        return np.zeros(len(client_ids), np.int64)

    def broadcast(self, state: State, params: Params, group: int) -> Params:
        """Return what the clients of a group are sent to train or rank with.

        Args:
            state: From `init` or the last round.
            params: The shared parameters.
            group: Of `groups`.

        Returns:
            Every shared parameter and whatever `client_rule` asks to have sent down.
        """
        return params

    @final
    def published(self, state: State, params: Params, n_clients: int) -> Params:
        """Return what a run leaves behind as its model: all that is needed to rank.

        With groups: the parameters of group g under ``NAME@g``, and ``group`` int32 [n_clients].

        Args:
            state: After the last round.
            params: The shared parameters.
            n_clients: All clients.
        """
        group = self.groups(state, np.arange(n_clients, dtype=np.int64))
        if not group.any():
            sent = self.broadcast(state, params, 0)
            return {name: sent[name] for name in params}
        model = {**params, "group": group.astype(np.int32)}
        for number in np.unique(group).tolist():
            sent = self.broadcast(state, params, number)
            model |= {f"{name}@{number}": sent[name] for name in params}
        return model

    @property
    def summing(self) -> Summing | None:
        """How rows may be summed as soon as they are trained; None if `reduce` is to see them."""
        sees_rows = self.needs == "each" or type(self).reduce is not Strategy.reduce
        return None if sees_rows else self._summed

    def reduce(self, batch: UpdateBatch) -> Aggregate:
        """Sum some clients' updates, or keep each; runs on the node.

        Raises:
            NumericError: If an update is not finite or a sum overflows.
        """
        if self.needs == "sums":
            return reduce_sums(batch, self._summed)
        rows = {name: block.values for name, block in batch.tables.items()}
        for name, values in {**rows, **batch.dense}.items():
            if not np.isfinite(values).all():
                raise NumericError(f"the update of '{name}' is not finite")
        return keep_each(batch)

    def merge(self, a: Aggregate, b: Aggregate) -> Aggregate:
        """Join two aggregates; associative and commutative, bit for bit."""
        return merge(a, b)

    def apply_groups(
        self, state: State, params: Params, aggregates: Mapping[int, Aggregate]
    ) -> tuple[State, Params]:
        """Return the next state and shared parameters, from the aggregate of each group.

        Args:
            state: From `init` or the last round.
            params: The shared parameters.
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
        """Return the next state and shared parameters; the arguments stay as they are.

        Args:
            state: From `init` or the last round.
            params: The shared parameters, float32.
            aggregate: All updates of the round.
        """


class Averaging(Strategy):
    """Base of strategies that work on the mean, or the sum, of the clients' changes.

    By default it is taken as a step.
    """

    average: Average = "per_row"
    server_lr: float = Field(1.0, gt=0)

    def without_effect(self, run: Any) -> list[str]:
        """Say that weights are not used where updates are only added up."""
        added_up = self.average == "sum"
        return self.unused("updates are added up unweighted", "weighting") if added_up else []

    @property
    def _summed(self) -> Summing:
        return Summing(self.weighting, weighted=self.average != "sum")

    def apply(self, state: State, params: Params, aggregate: Aggregate) -> tuple[State, Params]:
        """Return the parameters after one step along the mean change."""
        change = mean_update(params, aggregate, self.average)
        return state, stepped(params, change, self.server_lr)


def strategy_of(experiment: Experiment) -> Strategy:
    """Return the strategy of an experiment.

    Raises:
        ConfigError: If it is not one of fedrec's kind.
    """
    if not isinstance(experiment.strategy, Strategy):
        raise ConfigError("strategy: is not a strategy of fedrec (subclass strategies.Strategy)")
    return experiment.strategy
