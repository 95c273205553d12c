"""The coordinate-wise trimmed mean (Yin et al., 2018)."""

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedrec.types import FloatArray
from strategies.aggregations.row_wise import RowWise


class TrimmedMean(RowWise):
    r"""Every coordinate takes the mean over the clients without the largest and the smallest.

    Of the m clients that touched an item, :math:`\max(1, \lfloor \beta m \rfloor)` are left out at
    either end: at least one, so that a single client among few cannot move the mean at will.

    Args:
        trim: :math:`\beta`, the share that is left out at either end.

    Reference: yin2018byzantine, Algorithm 1, option II.
    """

    reference: ClassVar[str] = "yin2018byzantine"

    trim: float = Field(0.1, gt=0, lt=0.5)

    @property
    def clients_needed(self) -> int:
        """One client that stays, and one at either end."""
        return 3

    def without_effect(self, run: Any) -> list[str]:
        """Say that the share is less than one client."""
        lines = super().without_effect(run)
        cohort = run.experiment.rounds.clients_of(run.split.n_clients)
        if self.trim * cohort < 1:
            lines.append(
                f"trim: {self.trim:g} of the {cohort} clients of a round is less than one; one at "
                "either end is left out; raise it"
            )
        return lines

    def choose(self, rows: FloatArray) -> FloatArray:
        """Return the mean of what is left."""
        m = rows.shape[1]
        out = max(1, int(self.trim * m))
        return np.asarray(np.sort(rows, axis=1)[:, out : m - out].mean(1, dtype=np.float64))
