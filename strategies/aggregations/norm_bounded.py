"""The mean of changes of bounded length (Sun et al., 2019)."""

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedrec.aggregation.lengths import of_rows, scaled, squared_lengths, squared_rows
from fedrec.aggregation.reduce import reduce_sums
from fedrec.aggregation.update import Aggregate, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.types import Params, State
from strategies.aggregations.mean import Mean

_EARLIER = 0.9


class NormBounded(Mean):
    r"""The mean of the clients' changes, of which none is longer than a bound.

    .. math:: \Delta_u \leftarrow \Delta_u \min(1, B / \lVert \Delta_u \rVert)

    The server shortens them, so every client's update travels to it by itself.

    Args:
        bound: B; or ``median``, the running mean of the rounds' median lengths (9 parts of the
            earlier rounds, 1 part of this one): then about half of the clients are shortened.
        per: What is shortened: each client's whole ``update``, or each ``row`` of an item and each
            dense parameter by itself, with running means of each table and parameter.

    Reference: sun2019can.
    """

    reference: ClassVar[str] = "sun2019can"
    needs: ClassVar[Literal["sums", "each"]] = "each"

    bound: Annotated[float, Field(gt=0)] | Literal["median"] = "median"
    per: Literal["update", "row"] = "update"

    def change(
        self, state: State, params: Params, aggregate: Aggregate, context: RoundContext
    ) -> tuple[State, Params]:
        """Return the running means of the lengths, and the mean of the shortened changes."""
        assert aggregate.each is not None
        state, batch = self._shortened(state, aggregate.each)
        return super().change(state, params, reduce_sums(batch, self.sums), context)

    def _shortened(self, state: State, batch: UpdateBatch) -> tuple[State, UpdateBatch]:
        of_clients = np.sqrt(squared_lengths(batch))
        lengths = of_rows(batch, of_clients)
        medians = dict.fromkeys(lengths, float(np.median(of_clients)))
        if self.per == "row":
            lengths = {name: np.sqrt(squares) for name, squares in squared_rows(batch).items()}
            medians = {name: float(np.median(each)) for name, each in lengths.items() if len(each)}
        bounds: dict[str, float] = {**state.values}
        for name, median in medians.items():
            bounds[name] = _EARLIER * bounds.get(name, median) + (1 - _EARLIER) * median
        if self.bound != "median":
            bounds = dict.fromkeys(medians, self.bound)
        least = np.finfo(np.float64).tiny  # half of the clients may have changed nothing
        factors = {}
        for name, length in lengths.items():
            bound = max(bounds.get(name, 0.0), least)
            factors[name] = bound / np.maximum(length, bound)
        return State(values=bounds), scaled(batch, factors)
