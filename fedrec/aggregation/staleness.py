"""Sums of updates that count less because they were trained from old parameters."""

from dataclasses import replace

import numpy as np

from fedrec.aggregation.fixed_point import times
from fedrec.aggregation.update import Aggregate, UpdateBatch


def downweighted(aggregate: Aggregate, factor: float) -> Aggregate:
    r"""Return a sum of updates in which the changes of the shared parameters are scaled.

    Every sum is multiplied once, exactly, and rounded (`fedrec.aggregation.fixed_point.times`), so
    the updates of a version must be merged before, and those of different versions after: then it
    does not matter in which order any of them came.

    The weights stay, of the clients and of the rows, and so does their number: with ``average:
    cohort`` K updates of equal weight become :math:`\tfrac1K \sum_u s_u \Delta_u`, as FedBuff has
    it, and not the mean weighted by s. Extras, metrics and what a client rule sends beside a
    parameter (``NAME/KIND``, which its clients remember as they sent it) stay too.

    Args:
        aggregate: The updates of clients that trained from one version.
        factor: s, from 0 to 1.

    Reference: nguyen2022federated, Algorithm 1.
    """
    if factor == 1:
        return aggregate
    sums = {n: v if "/" in n else times(v, factor) for n, v in aggregate.sums.items()}
    each = None if aggregate.each is None else _downweighted(aggregate.each.decoded(), factor)
    return replace(aggregate, sums=sums, each=each)


def _downweighted(updates: UpdateBatch, factor: float) -> UpdateBatch:
    """Return updates, none of them coded, with their changes scaled in float32."""
    single = np.float32(factor)
    tables = {
        name: block if "/" in name else replace(block, values=block.values * single)
        for name, block in updates.tables.items()
    }
    dense = {name: v if "/" in name else v * single for name, v in updates.dense.items()}
    return replace(updates, tables=tables, dense=dense)
