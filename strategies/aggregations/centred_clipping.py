"""Centred clipping (Karimireddy et al., 2021)."""

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from fedrec.aggregation.reduce import touched_rows
from fedrec.aggregation.update import Aggregate
from fedrec.compute.context import RoundContext
from fedrec.types import Params, State
from strategies.aggregations.norm_bounded import NormBounded


class CentredClipping(NormBounded):
    r"""Changes are shortened towards the joint change of the last round.

    .. math:: v \leftarrow v + \frac{1}{n} \sum_u (\Delta_u - v)
              \min\left(1, \frac{B}{\lVert \Delta_u - v \rVert}\right)

    v, from 0, is remembered and is the joint change; of an item, over the clients that touched it.
    An item that nobody touched does not move, and its v stays. One iteration per round.

    Reference: karimireddy2021learning.
    """

    reference: ClassVar[str] = "karimireddy2021learning"

    average: Literal["per_row", "cohort"] = "per_row"

    def init(self, params: Params, context: RoundContext) -> State:
        """Return v = 0, float64, named and shaped as the parameters."""
        return State({name: np.zeros(value.shape) for name, value in params.items()})

    def change(
        self, state: State, params: Params, aggregate: Aggregate, context: RoundContext
    ) -> tuple[State, Params]:
        """Return the next v, and the same as the joint change where somebody touched an item."""
        batch, centre = aggregate.each, state.arrays
        assert batch is not None
        tables = {
            name: replace(block, values=block.values - centre[name][block.ids])
            for name, block in batch.tables.items()
            if name in centre
        }
        dense = {n: values - centre[n] for n, values in batch.dense.items() if n in centre}
        apart = replace(aggregate, each=replace(batch, tables=tables, dense=dense))
        bounds, step = super().change(state, params, apart, context)
        after = {name: centre[name] + step[name] for name in params}
        change = dict(after)
        for name, rows in touched_rows(aggregate).items():
            change[name] = np.zeros(params[name].shape)
            change[name][rows] = after[name][rows]
        return State(after, bounds.values), change
