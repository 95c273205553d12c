"""What a strategy is: a value that turns updates into the next global parameters.

A strategy is pure: no transport, no clock, and no randomness but that of the `RoundContext`. The
server calls `init`, `groups`, `broadcast`, `merge` and `apply`; `reduce` runs on the nodes, so that
one sum travels and not each client's update.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import numpy as np

from fedrec.aggregation.reduce import Summing, keep_each, merge, reduce_sums
from fedrec.aggregation.update import Aggregate, Aggregates, Down, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError
from fedrec.plugins import Defaults, Plugin
from fedrec.types import IntArray, Params, State

if TYPE_CHECKING:
    from fedrec.config.experiment import Experiment

Payload = Literal["shared", "group", "client"]


class Strategy(Plugin):
    """Base of all strategies; `strategies.composed.Composed` is made of interchangeable parts.

    A strategy may have a ``client_rule``, a `fedrec.training.client_rule.ClientRule`; without it
    clients train plainly. It is a field, a property, or an attribute of the class, which must be
    annotated: ``client_rule: ClassVar[ClientRule] = Proximal(mu=0.5)``.

    Attributes:
        needs: ``sums`` if it can work on sums of updates, ``each`` if it needs every client's.
        payload: Who receives values of its own in `broadcast`: nobody (``shared``), groups of
            clients (``group``), or each client (``client``).
    """

    needs: ClassVar[Literal["sums", "each"]] = "sums"
    payload: ClassVar[Payload] = "shared"

    # Plain steps along the sum of a client's gradients: dense layers diverge at the rate of 1 that
    # serves the rows of an item table.
    defaults: ClassVar[Defaults] = {"train": {"optimizers": {"shared": {"lr": 0.01}}}}

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Check what the class declares, and that it does not define published."""
        if cls.needs not in ("sums", "each"):
            raise ConfigError(f"strategy {cls.__qualname__}: expected needs = 'sums' or 'each'")
        if cls.payload not in ("shared", "group", "client"):
            raise ConfigError(
                f"strategy {cls.__qualname__}: expected payload = 'shared', 'group' or 'client'"
            )
        if cls.published is not Strategy.published:
            raise ConfigError(
                f"strategy {cls.__qualname__}: leave out published: a run leaves behind what its "
                "clients rank with, which broadcast says"
            )

    @property
    def measures(self) -> tuple[str, ...]:
        """What clients measure for it, see `fedrec.training.task.MEASURES`; nothing by default."""
        return ()

    def init(self, params: Params, context: RoundContext) -> State:
        """Return the state before the first round; empty by default.

        Args:
            params: The initial global parameters.
            context: The run, before its first round.
        """
        return State()

    def state_bytes(self, shapes: Mapping[str, tuple[int, ...]], n_clients: int) -> int:
        """Return how many bytes the state may take; 0 by default.

        A run is refused before it begins if they are more than ``engine.state_limit``.

        Args:
            shapes: Of the shared parameters, by name.
            n_clients: All clients of the run.
        """
        return 0

    def groups(self, state: State, client_ids: IntArray) -> IntArray:
        """Return the group of each client, int64 [c] from 0; by default all are in group 0.

        Updates are summed by group.

        Args:
            state: From `init` or the last round.
            client_ids: int64 [c].
        """
        return np.zeros(len(client_ids), np.int64)

    def broadcast(
        self, state: State, params: Params, client_ids: IntArray, context: RoundContext
    ) -> Down:
        """Return what some clients are sent to train or rank with; by default the parameters.

        Args:
            state: From `init` or the last round.
            params: The shared parameters.
            client_ids: int64 [c], sorted.
            context: The round.

        Returns:
            Every shared parameter, and whatever the client rule asks to have sent beside them.
        """
        return Down(params)

    def notes(self, state: State) -> list[str]:
        """Return what the user must know at the end, a line each; nothing by default.

        Args:
            state: After the last round.
        """
        return []

    @final
    def published(self, state: State, params: Params, context: RoundContext) -> Down:
        """Return what a run leaves behind as its model: all that clients need to rank.

        Args:
            state: After the last round.
            params: The shared parameters.
            context: The round.
        """
        everybody = np.arange(context.n_clients, dtype=np.int64)
        sent = self.broadcast(state, params, everybody, context)
        return Down({n: v for n, v in sent.shared.items() if n in params}, sent.own)

    @property
    def sees_each(self) -> bool:
        """Whether the server receives every client's update, in the form in which it travels."""
        return self.needs == "each"

    @property
    def by_node(self) -> bool:
        """Whether updates are kept apart by node and not by group; no by default.

        Then `apply` receives the updates of each node by its number, and results depend on the
        number of nodes.
        """
        return False

    @property
    def summing(self) -> Summing | None:
        """How rows may be summed as soon as they are trained; None if `reduce` is to see them."""
        sees_rows = self.sees_each or type(self).reduce is not Strategy.reduce
        return None if sees_rows else Summing()

    def reduce(self, batch: UpdateBatch) -> Aggregate:
        """Sum some clients' updates, or keep each; runs on the node.

        Args:
            batch: The updates; their values are float32, or encoded where `sees_each` holds.

        Raises:
            NumericError: If an update is not finite or a sum overflows.
        """
        return keep_each(batch) if self.sees_each else reduce_sums(batch, Summing())

    def merge(self, a: Aggregate, b: Aggregate) -> Aggregate:
        """Join two aggregates; associative and commutative, bit for bit."""
        return merge(a, b)

    @abstractmethod
    def apply(
        self, state: State, params: Params, aggregates: Aggregates, context: RoundContext
    ) -> tuple[State, Params]:
        """Return the next state and shared parameters; the arguments stay as they are.

        Args:
            state: From `init` or the last round.
            params: The shared parameters, float32.
            aggregates: The updates of each group that had clients in the round; by default there
                is one group, 0.
            context: The round.
        """


def strategy_of(experiment: Experiment) -> Strategy:
    """Return the strategy of an experiment.

    Raises:
        ConfigError: If it is not one of fedrec's kind.
    """
    if not isinstance(experiment.strategy, Strategy):
        raise ConfigError("strategy: is not a strategy of fedrec (subclass strategies.Strategy)")
    return experiment.strategy
