"""Krum and Multi-Krum (Blanchard et al., 2017)."""

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedrec.aggregation.distances import squared_distances
from fedrec.plugins import Count
from fedrec.types import FloatArray
from strategies.aggregations.row_wise import RowWise


class Krum(RowWise):
    r"""Every item's row takes the change of the client whose neighbours are nearest.

    Of the m clients that touched an item, client u scores
    :math:`\sum_{v \in N_u} \lVert \Delta_{ui} - \Delta_{vi} \rVert^2` over its
    :math:`m - f - 2` nearest others; the lowest score is taken (of equal scores, the lowest client
    id). It needs :math:`2 f + 3` clients. Clients touch different items, so a distance between
    whole updates would say how few items they share.

    Args:
        byzantine: f, how many clients may send anything at all.

    Reference: blanchard2017machine, section 4.
    """

    reference: ClassVar[str] = "blanchard2017machine"

    byzantine: int = Field(1, ge=0)

    @property
    def clients_needed(self) -> int:
        """2 f + 3 clients."""
        return 2 * self.byzantine + 3

    def selected(self, clients: int) -> int:
        """Return how many of the lowest scores are averaged."""
        return 1

    def choose(self, rows: FloatArray) -> FloatArray:
        """Return the mean change of the clients with the lowest scores, item by item."""
        m = rows.shape[1]
        near = np.sort(squared_distances(rows), axis=2)[:, :, : m - self.byzantine - 2]
        scores = near.sum(2)
        lowest = np.argsort(scores, axis=1, kind="stable")[:, : self.selected(m)]
        chosen = np.take_along_axis(rows, np.sort(lowest, axis=1)[:, :, None], axis=1)
        return np.asarray(chosen.mean(1, dtype=np.float64))


class MultiKrum(Krum):
    """Every item's row takes the mean change of several clients whose neighbours are nearest.

    Scores are those of `Krum`.

    Args:
        select: How many changes are averaged, at most m - f - 2 of m; None: as many.

    Reference: blanchard2017machine, section 5.
    """

    select: Count | None = None

    def without_effect(self, run: Any) -> list[str]:
        """Say that fewer clients may be averaged."""
        lines = super().without_effect(run)
        most = self.selected(run.experiment.rounds.clients_of(run.split.n_clients))
        if self.select is not None and self.select > most:
            lines.append(
                f"select: {self.select} has no effect: at most {most} clients of a round are "
                "averaged; lower it"
            )
        return lines

    def selected(self, clients: int) -> int:
        """Return how many of the lowest scores are averaged."""
        most = clients - self.byzantine - 2
        return most if self.select is None else min(self.select, most)
