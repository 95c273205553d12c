"""The parameters of groups of clients, in the model that a run leaves behind.

Where a strategy keeps clients in groups, those of group g stand under ``NAME@g``, and ``group``,
int32 [n_clients], says who is where. Otherwise all clients share one set.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedrec.types import FloatArray, IntArray, Params

__all__ = ["by_group", "of_group"]

_MARK = "@"


def of_group(model: Params, group: int) -> Params:
    """The global parameters that the clients of a group rank with.

    Args:
        model: What a run leaves behind.
        group: Number of the group; without groups, any.
    """
    if not _has_groups(model):
        return model
    suffix = f"{_MARK}{group}"
    return {name.removesuffix(suffix): v for name, v in model.items() if name.endswith(suffix)}


def by_group(
    model: Params,
    clients: IntArray,
    make: Callable[[Params], Callable[[IntArray], FloatArray]],
) -> Callable[[IntArray], FloatArray]:
    """A function of some rows, in which each row has the parameters of its client's group.

    Args:
        model: What a run leaves behind.
        clients: int64 [u], the client of each row.
        make: From parameters to such a function: of rows, int64 [b], at least one, to
            float [b, ...].
    """
    if not _has_groups(model):
        return make(model)
    group = model["group"][clients]
    known = {number: make(of_group(model, number)) for number in np.unique(group).tolist()}

    def found(rows: IntArray) -> FloatArray:
        order = np.argsort(group[rows], kind="stable")
        numbers, starts = np.unique(group[rows][order], return_index=True)
        parts = [
            known[int(number)](rows[at])
            for number, at in zip(numbers, np.split(order, starts[1:]), strict=True)
        ]
        return np.concatenate(parts)[np.argsort(order)]

    return found


def _has_groups(model: Params) -> bool:
    return any(_MARK in name for name in model)
