"""What a strategy is: a value that turns updates into the next global parameters.

A strategy is pure: no transport, no clock, no randomness of its own. Its server half is `init`,
`reduce`, `merge` and `apply`; `reduce` runs on the nodes, so that one sum travels and not each
client's update.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal, TypeAlias

from fedrec.aggregation import Weighting, merge_sums, reduce_sums
from fedrec.plugins import Plugin
from fedrec.types import Params, Partial, UpdateBatch

__all__ = ["State", "Strategy"]

State: TypeAlias = Any
"""What a strategy remembers from round to round; a frozen value."""


class Strategy(Plugin):
    """Base of all strategies.

    Attributes:
        needs: ``sums`` if it can work on sums of updates, ``each`` if it needs every client's.
    """

    needs: ClassVar[Literal["sums", "each"]] = "sums"

    weighting: Weighting = "uniform"

    @property
    def plain_sum(self) -> bool:
        """Whether updates are added up unweighted, whatever the weighting."""
        return False

    @abstractmethod
    def init(self, params: Params) -> State:
        """The state before the first round.

        Args:
            params: The initial global parameters.
        """

    def reduce(self, batch: UpdateBatch) -> Partial:
        """Sum some clients' updates; runs on the node.

        Raises:
            NumericError: If an update is not finite or a sum overflows.
        """
        return reduce_sums(batch, self.weighting, weighted=not self.plain_sum)

    def merge(self, a: Partial, b: Partial) -> Partial:
        """Join two partial results; associative and commutative, bit for bit."""
        return merge_sums(a, b)

    @abstractmethod
    def apply(self, state: State, params: Params, partial: Partial) -> tuple[State, Params]:
        """The next state and global parameters.

        Args:
            state: From `init` or the last round.
            params: The global parameters, float32.
            partial: All updates of the round.

        Returns:
            New values; the arguments stay as they are.
        """
