"""The updates of all attackers of a round, value by value.

Clients touch different rows of an item table, so what is said of a row is said of the attackers
that touched it: among those that did not, it would be zero for nearly all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import TypeAlias

import numpy as np

from fedrec.types import FloatArray, IntArray, RowBlock, UpdateBatch


@dataclass(frozen=True, slots=True)
class Values:
    """The changes of one parameter by several attackers.

    Args:
        own: float [n, *shape], one change each: of a row by an attacker that touched it, or of a
            dense parameter by each attacker.
        mean: float64 [n, *shape], the mean of the attackers that changed the same.
        std: float64 [n, *shape], their standard deviation; 0 for what one attacker changed alone.
        size: float64 [n], the root mean square of all numbers in their changes.
    """

    own: FloatArray
    mean: FloatArray
    std: FloatArray
    size: FloatArray


Rule: TypeAlias = Callable[[Values], FloatArray]
"""Returns what is sent in place of each change, float [n, *shape]."""


def values_of(own: FloatArray, index: IntArray) -> Values:
    """Return changes with the mean and the deviation of those that belong together.

    Args:
        own: float [n, *shape].
        index: int64 [n], what each change is of, numbered from 0.
    """
    flat = _flat(own)
    by_index = np.argsort(index, kind="stable")
    starts = np.flatnonzero(np.diff(index[by_index], prepend=-1))
    counts = np.bincount(index, minlength=1)[:, None]

    def mean_of(values: FloatArray) -> FloatArray:
        sums = np.add.reduceat(values[by_index], starts) if len(starts) else values
        return np.asarray(sums / counts[: len(sums)])

    mean = mean_of(flat)
    std = np.sqrt(mean_of((flat - mean[index]) ** 2))
    size = np.sqrt(mean_of(flat**2).mean(axis=1))
    return Values(own, mean[index].reshape(own.shape), std[index].reshape(own.shape), size[index])


def rewritten(pool: UpdateBatch, rule: Rule) -> UpdateBatch:
    """Return updates of the same rows by the same clients, with other changes.

    Args:
        pool: The attackers' updates.
        rule: What is sent in place of each change.
    """

    def apply(own: FloatArray, index: IntArray) -> FloatArray:
        return np.asarray(rule(values_of(own, index)), own.dtype)

    tables = {}
    for name, block in pool.tables.items():
        _, index = np.unique(block.ids, return_inverse=True)
        tables[name] = replace(block, values=apply(block.values, index))
    everybody = np.zeros(len(pool.client_ids), np.int64)
    dense = {name: apply(values, everybody) for name, values in pool.dense.items()}
    return replace(pool, tables=tables, dense=dense)


def row_norms(block: RowBlock) -> FloatArray:
    """Return the norm of each changed row, float64 [n]."""
    return np.asarray(np.sqrt((_flat(block.values) ** 2).sum(axis=1)))


def bounded(values: FloatArray, bound: float) -> FloatArray:
    """Return rows that are shortened to a norm where they are longer, float [n, *shape]."""
    flat = _flat(values)
    norms = np.sqrt((flat**2).sum(axis=1))
    factors = np.minimum(1.0, bound / np.maximum(norms, np.finfo(np.float64).tiny))
    return np.asarray((flat * factors[:, None]).reshape(values.shape), values.dtype)


def _flat(values: FloatArray) -> FloatArray:
    """Return changes as float64 [n, numbers of one], also of none."""
    return values.reshape(len(values), prod(values.shape[1:])).astype(np.float64)
