"""What an aggregation is: it makes one change of many clients' changes."""

from abc import abstractmethod
from typing import Any, ClassVar, Literal

from fedrec.aggregation.reduce import Summing, keep_each, reduce_sums
from fedrec.aggregation.update import Aggregate, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError
from fedrec.plugins import Plugin
from fedrec.types import Params, State


class Aggregation(Plugin):
    """Base of all aggregations.

    Attributes:
        needs: ``sums`` if it can work on sums of updates, ``each`` if it needs every client's.
        measures: What clients measure for it, see `fedrec.training.task.MEASURES`.
    """

    needs: ClassVar[Literal["sums", "each"]] = "sums"
    measures: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Check what the class declares."""
        if cls.needs not in ("sums", "each"):
            raise ConfigError(f"aggregation {cls.__qualname__}: expected needs = 'sums' or 'each'")

    @property
    def sums(self) -> Summing:
        """How changes are summed; by default unweighted."""
        return Summing()

    @property
    def summing(self) -> Summing | None:
        """How rows may be summed as soon as they are trained; None if `reduce` is to see them."""
        sees_rows = self.needs == "each" or type(self).reduce is not Aggregation.reduce
        return None if sees_rows else self.sums

    def init(self, params: Params, context: RoundContext) -> State:
        """Return the state before the first round; empty by default."""
        return State()

    def reduce(self, batch: UpdateBatch) -> Aggregate:
        """Sum some clients' updates, or keep each; runs on the node."""
        return reduce_sums(batch, self.sums) if self.needs == "sums" else keep_each(batch)

    @abstractmethod
    def change(
        self, state: State, params: Params, aggregate: Aggregate, context: RoundContext
    ) -> tuple[State, Params]:
        """Return the next state, and the joint change of each shared parameter.

        Args:
            state: From `init` or the last round.
            params: The shared parameters.
            aggregate: The updates of all clients of the round.
            context: The round.

        Returns:
            The change: float64 of each parameter's shape, 0 for rows that nobody touched.
        """
