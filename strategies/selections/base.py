"""What a selection is: it chooses the clients of each round."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError
from fedrec.plugins import Plugin
from fedrec.types import FloatArray, IntArray, State

if TYPE_CHECKING:
    from fedrec.config.experiment import Experiment

REPORTED = {
    "examples": "how many train items each client has, once",
    "loss": "the mean training loss of each client, after every round that it takes part in",
}
"""What clients can report to the server for a selection."""


class Selection(Plugin):
    """Base of all selections.

    A choice depends on nothing but the seed, the round and the state, so it is the same for any
    number of nodes and after a stop. Random numbers come from the `RoundContext`.

    Attributes:
        needs: What clients must report to the server, see `REPORTED`.
    """

    needs: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **_: object) -> None:
        """Check what the class declares."""
        if not set(cls.needs) <= set(REPORTED):
            raise ConfigError(
                f"selection {cls.__qualname__}: expected needs = a tuple of {', '.join(REPORTED)}"
            )

    def init(self, examples: IntArray, context: RoundContext) -> State:
        """Return the state before the first round; empty by default.

        Args:
            examples: int64 [n_clients], the train items of each client; [0] if they are not told.
            context: The run, before its first round.
        """
        return State()

    @abstractmethod
    def choose(self, state: State, size: int, context: RoundContext) -> IntArray:
        """Return the clients of a round, int64, sorted; none are a round without change.

        Args:
            state: From `init` or the last round.
            size: Clients that the experiment asks for in a round, from 1.
            context: The round; its cohort is not known yet.
        """

    def learned(
        self, state: State, clients: IntArray, losses: FloatArray, context: RoundContext
    ) -> State:
        """Return the state after a round, where losses are told; by default as it was.

        Args:
            state: From `init` or the last round.
            clients: int64 [c], the clients that trained, sorted.
            losses: float64 [c], the mean training loss of each per positive, as in the run log.
            context: The round.
        """
        return state


def lowest(keys: FloatArray | NDArray[np.uint64], count: int) -> IntArray:
    """Return the places of the lowest keys, int64 [count], sorted."""
    if count >= len(keys):
        return np.arange(len(keys), dtype=np.int64)
    return np.sort(np.argpartition(keys, count - 1)[:count]).astype(np.int64)


def selection_of(experiment: Experiment) -> Selection:
    """Return the selection of an experiment.

    Raises:
        ConfigError: If it is not one of fedrec's kind.
    """
    selection = experiment.rounds.selection
    if not isinstance(selection, Selection):
        raise ConfigError(
            f"rounds.selection: {type(selection).__name__} is not a selection of fedrec (subclass "
            "strategies.selections.Selection)"
        )
    return selection
