"""The coordinate-wise median of the clients' changes (Yin et al., 2018)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fedrec.aggregation.reduce import stepped
from fedrec.types import Aggregate, FloatArray, Params
from strategies.base import State, Strategy
from strategies.rowwise import each_change

__all__ = ["Median"]


class Median(Strategy):
    r"""Every coordinate of an item's row takes the median over the clients that touched the item.

    .. math:: x_i \leftarrow x_i + \eta \, \mathrm{med} \{ \Delta_{ui} : i \in S_u \}

    Clients that did not touch the item have no say: their zeros would be the median of nearly all
    items. Dense parameters take the median over all clients of the cohort. Every client's update
    travels to the server by itself.

    Args:
        server_lr: :math:`\eta`.

    Reference: yin2018byzantine, Algorithm 1, option I.
    """

    reference: ClassVar[str] = "yin2018byzantine"
    needs = "each"

    weighting: Literal["uniform"] = "uniform"
    server_lr: float = Field(1.0, gt=0)

    def apply(self, state: State, params: Params, aggregate: Aggregate) -> tuple[State, Params]:
        """One step along the median change."""
        assert aggregate.each is not None
        change = each_change(params, aggregate.each, _median)
        return state, stepped(params, change, self.server_lr)


def _median(rows: FloatArray) -> FloatArray:
    return np.asarray(np.median(rows, axis=1))
