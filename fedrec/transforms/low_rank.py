"""Low-rank updates: rows travel as their coordinates in a random subspace of the round."""

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from fedrec.aggregation.update import RowBlock
from fedrec.compute.context import RoundContext
from fedrec.compute.operations import padded_mm
from fedrec.transforms.encoding import Encoding
from fedrec.types import FloatArray, IntArray


class LowRank(Encoding):
    r"""A row of d values travels as r, its coordinates in r random orthonormal directions Q.

    .. math:: a = \Delta Q^\top, \quad \Delta' = \sqrt{d / r} \, a Q

    Q, r x d, is drawn anew in every round from the seed, which the server knows, so it is not sent.
    For one step of gradient descent this is CoLR, whose clients train a alone, with B of its
    paper :math:`\sqrt{d / r} \, Q`. Later steps of CoLR see the change within the subspace alone;
    here they see all of it. Rows of no more than r values, and dense parameters that are no
    vectors, travel as they are.

    Args:
        rank: r.

    Reference: nguyen2024colr, section 4.
    """

    reference: ClassVar[str] = "nguyen2024colr"
    stage: ClassVar[Literal[0, 1, 2]] = 1

    rank: int = Field(8, ge=1)

    def without_effect(self, run: Any) -> list[str]:
        """Say that no row is longer than the rank."""
        widths = [s.shape[0] for s in run.task.shared_specs().values() if len(s.shape) == 1]
        if max(widths, default=0) > self.rank:
            return []
        return [f"rank: {self.rank} has no effect: no row has more values; lower it"]

    def encoded(
        self, name: str, block: RowBlock, clients: IntArray, context: RoundContext
    ) -> RowBlock:
        """Return coordinates, with the basis."""
        if block.values.ndim != 2 or block.values.shape[1] <= self.rank:
            return block
        width = block.values.shape[1]
        directions = _directions(context, name, self.rank, width)
        rows, columns = torch.tensor(block.values), torch.tensor(directions.T.copy())
        coordinates = padded_mm(rows, columns).numpy()
        basis = (math.sqrt(width / self.rank) * directions).astype(np.float32)
        return replace(block, values=coordinates, basis=basis)


def _directions(context: RoundContext, name: str, rank: int, width: int) -> FloatArray:
    nobody, rows = np.zeros(1, np.int64), np.full(1, rank)
    numbers = context.normal(f"low_rank {name}", nobody, rows, width).astype(np.float64)
    return _orthonormal(numbers.tobytes(), rank, width)


@lru_cache(maxsize=8)
def _orthonormal(numbers: bytes, rank: int, width: int) -> FloatArray:
    """Return orthonormal rows, float32 [r, d], by Gram and Schmidt; equal on every machine."""
    rows = np.frombuffer(numbers, np.float64).reshape(rank, width).copy()
    for at in range(rank):
        for before in range(at):
            rows[at] -= math.fsum(rows[at] * rows[before]) * rows[before]
        length = math.sqrt(math.fsum(rows[at] * rows[at]))
        rows[at] /= length
    return rows.astype(np.float32)
