"""The updates of all attackers of a round, value by value.

Clients touch different rows of an item table, so what is said of a row is said of the attackers
that touched it: among those that did not, it would be zero for nearly all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TypeAlias

import numpy as np

from fedrec.aggregation.lengths import row_squares
from fedrec.aggregation.update import RowBlock, UpdateBatch
from fedrec.types import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Values:
    """The changes of one parameter by several attackers.

    Args:
        honest: float [n, *shape], one change each: of a row by an attacker that touched it, or of a
            dense parameter by each attacker.
        index: int64 [n], what each change is of, numbered from 0.
    """

    honest: FloatArray
    index: IntArray

    @cached_property
    def mean(self) -> FloatArray:
        """float64 [n, *shape], the mean of the attackers that changed the same."""
        return self._mean_of(_flat(self.honest))[self.index].reshape(self.honest.shape)

    @cached_property
    def std(self) -> FloatArray:
        """float64 [n, *shape], their standard deviation; 0 for what one of them changed alone."""
        variance = self._mean_of(_flat(self.honest - self.mean) ** 2)
        return np.asarray(np.sqrt(variance)[self.index].reshape(self.honest.shape))

    @cached_property
    def size(self) -> FloatArray:
        """float64 [n], the root mean square of all numbers in their changes."""
        return np.asarray(np.sqrt(self._mean_of(_flat(self.honest) ** 2).mean(axis=1))[self.index])

    def _mean_of(self, values: FloatArray) -> FloatArray:
        """Return the means of rows that are of the same, float64 [k, ...]."""
        by_index = np.argsort(self.index, kind="stable")
        starts = np.flatnonzero(np.diff(self.index[by_index], prepend=-1))
        sums = np.add.reduceat(values[by_index], starts) if len(starts) else values
        return np.asarray(sums / np.bincount(self.index, minlength=len(sums))[:, None])


Rule: TypeAlias = Callable[[Values], FloatArray]
"""Returns what is sent in place of each change, float [n, *shape]."""


def rewritten(pool: UpdateBatch, rule: Rule) -> UpdateBatch:
    """Return updates of the same rows by the same clients, with other changes.

    Args:
        pool: The attackers' updates.
        rule: What is sent in place of each change.
    """

    def apply(honest: FloatArray, index: IntArray) -> FloatArray:
        return np.asarray(rule(Values(honest, index)), honest.dtype)

    tables = {}
    for name, block in pool.tables.items():
        _, index = np.unique(block.ids, return_inverse=True)
        tables[name] = replace(block, values=apply(block.values, index))
    everybody = np.zeros(len(pool.client_ids), np.int64)
    dense = {name: apply(values, everybody) for name, values in pool.dense.items()}
    return replace(pool, tables=tables, dense=dense)


def row_norms(block: RowBlock) -> FloatArray:
    """Return the norm of each changed row, float64 [n]."""
    return np.sqrt(row_squares(block.values))


def bounded(values: FloatArray, bound: float) -> FloatArray:
    """Return rows that are shortened to a norm where they are longer, float [n, *shape]."""
    flat = _flat(values)
    norms = np.sqrt(row_squares(values))
    factors = np.minimum(1.0, bound / np.maximum(norms, np.finfo(np.float64).tiny))
    return np.asarray((flat * factors[:, None]).reshape(values.shape), values.dtype)


def _flat(values: FloatArray) -> FloatArray:
    """Return changes as float64 [n, numbers of one], also of none."""
    return values.reshape(len(values), prod(values.shape[1:])).astype(np.float64)
