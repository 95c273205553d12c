"""Filter interactions before they are split.

The order is fixed: duplicates, then the rating threshold, then the k-core. Users that are too
short for the split are settled with it (`fedrec.data.split`). Last, users and items without any
interaction left lose their index.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedrec.data.base import DataSet
from fedrec.data.problems import UnsuitableData
from fedrec.errors import DataError
from fedrec.types import IntArray, Interactions

__all__ = ["check_interactions", "filter_interactions", "k_core", "keep_one", "select"]

Mask = NDArray[np.bool_]


def filter_interactions(data: Interactions, options: DataSet) -> Interactions:
    """Apply duplicates, threshold and k-core, in this order, and give new indices.

    Args:
        data: As loaded.
        options: Whose ``duplicates``, ``threshold`` and ``k_core`` are followed.

    Raises:
        DataError: If the data is unsound, has duplicates that may not be there, has no ratings to
            compare with the threshold, or nothing is left of it.
    """
    check_interactions(data)
    data = select(data, keep_one(data, options.duplicates))
    if options.threshold is not None:
        if data.ratings is None:
            raise UnsuitableData(
                f"data.threshold is {options.threshold:g}, but {data.name} has no ratings; name "
                "their column in data.columns.rating, or set data.threshold: null",
                threshold=None,
            )
        keep = data.ratings >= options.threshold
        if not keep.any():
            raise UnsuitableData(
                f"data.threshold: no rating of {data.name} is {options.threshold:g} or more; the "
                f"highest is {data.ratings.max():g}",
                threshold=None,
            )
        data = select(data, keep)
    if options.k_core > 1:
        keep = k_core(data.users, data.items, options.k_core)
        if not keep.any():
            raise UnsuitableData(
                f"data.k_core: {options.k_core} leaves nothing of {data.name}; lower it, or set 0",
                k_core=0,
            )
        data = select(data, keep)
    return data


def check_interactions(data: Interactions) -> None:
    """Check that a data set keeps its promises: lengths, ranges of indices, text, finite numbers.

    Raises:
        DataError: Naming what is wrong.
    """
    if len(data) == 0:
        raise DataError(f"{data.name}: no interactions; expected at least one")
    for label, indices, ids in (
        ("user", data.users, data.user_ids),
        ("item", data.items, data.item_ids),
    ):
        if len(indices) != len(data):
            raise DataError(f"{data.name}: {len(indices)} {label}s for {len(data)} interactions")
        if indices.min() < 0 or indices.max() >= len(ids):
            bad = int(indices.max() if indices.max() >= len(ids) else indices.min())
            raise DataError(
                f"{data.name}: {label} index {bad} is out of range; there are {len(ids)} {label}s"
            )
        if ids.dtype.kind != "U" and not all(isinstance(each, str) for each in ids.tolist()):
            raise DataError(f"{data.name}: raw ids of {label}s that are no text; expected str")
        if len(np.unique(ids)) != len(ids):
            raise DataError(f"{data.name}: two {label}s have the same raw id")
    for label, values in (("rating", data.ratings), ("timestamp", data.timestamps)):
        if values is None:
            continue
        if len(values) != len(data):
            raise DataError(f"{data.name}: {len(values)} {label}s for {len(data)} interactions")
        bad_rows = np.flatnonzero(~np.isfinite(values))
        if len(bad_rows):
            row = int(bad_rows[0])
            raise DataError(
                f"{data.name}: {label} {values[row]} of user '{data.user_ids[data.users[row]]}' "
                f"and item '{data.item_ids[data.items[row]]}' is not finite"
            )
    for columns, ids in ((data.user_columns, data.user_ids), (data.item_columns, data.item_ids)):
        for name, column in columns.items():
            if len(column) != len(ids):
                raise DataError(
                    f"{data.name}: column '{name}' has {len(column)} cells, expected {len(ids)}"
                )
            if column.dtype.kind != "U":
                for row, cell in enumerate(column.tolist()):
                    if not isinstance(cell, str):
                        raise DataError(
                            f"{data.name}: row {row + 1}, column '{name}': expected text, got "
                            f"{cell!r}"
                        )


def keep_one(data: Interactions, duplicates: Literal["error", "first", "last"]) -> Mask:
    """Choose rows so that each user has each item once.

    Args:
        data: Interactions.
        duplicates: Keep the ``first`` or the ``last`` in time (in the order of the rows where
            there is no time, or the same), or none may be there.

    Returns:
        bool [n].

    Raises:
        UnsuitableData: If there are duplicates and none may be there: the raw ids and the option.
    """
    keys = data.users * len(data.item_ids) + data.items
    ordered = np.sort(keys)
    if (ordered[1:] > ordered[:-1]).all():
        return np.ones(len(data), np.bool_)
    time = np.zeros(len(data)) if data.timestamps is None else data.timestamps
    order = np.lexsort((np.arange(len(data)), time, keys))
    same = keys[order][1:] == keys[order][:-1]
    if duplicates == "error" and same.any():
        rows = np.sort(order[1:][same])
        user, item = data.user_ids[data.users[rows[0]]], data.item_ids[data.items[rows[0]]]
        raise UnsuitableData(
            f"{data.name}: user '{user}' has item '{item}' more than once ({len(rows)} such rows); "
            "set data.duplicates to first or last",
            duplicates="last",
        )
    edge = np.ones(1, np.bool_)
    keep = np.empty(len(data), np.bool_)
    keep[order] = np.concatenate([~same, edge] if duplicates == "last" else [edge, ~same])
    return keep


def k_core(users: IntArray, items: IntArray, k: int) -> Mask:
    """Choose the largest set of rows in which every user and every item has at least k.

    Args:
        users: int64 [n].
        items: int64 [n].
        k: from 1.

    Returns:
        bool [n], which rows are in it; it does not depend on the order in which rows are removed.
    """
    alive = np.arange(len(users), dtype=np.int64)
    while len(alive):
        u, i = users[alive], items[alive]
        keep = (np.bincount(u)[u] >= k) & (np.bincount(i)[i] >= k)
        if keep.all():
            break
        alive = alive[keep]
    mask = np.zeros(len(users), np.bool_)
    mask[alive] = True
    return mask


def select(data: Interactions, keep: Mask) -> Interactions:
    """Return some rows with new indices; users and items that no row names are left out."""
    if keep.all() and _all_used(data):
        return data
    users, user_index = _renumber(data.users[keep], len(data.user_ids))
    items, item_index = _renumber(data.items[keep], len(data.item_ids))
    return Interactions(
        users=users,
        items=items,
        ratings=None if data.ratings is None else data.ratings[keep],
        timestamps=None if data.timestamps is None else data.timestamps[keep],
        user_ids=data.user_ids[user_index],
        item_ids=data.item_ids[item_index],
        user_columns={name: column[user_index] for name, column in data.user_columns.items()},
        item_columns={name: column[item_index] for name, column in data.item_columns.items()},
        name=data.name,
    )


def _all_used(data: Interactions) -> bool:
    return bool(
        np.bincount(data.users, minlength=len(data.user_ids)).all()
        and np.bincount(data.items, minlength=len(data.item_ids)).all()
    )


def _renumber(indices: IntArray, count: int) -> tuple[IntArray, NDArray[Any]]:
    used = np.bincount(indices, minlength=count) > 0
    place = np.cumsum(used, dtype=np.int64) - 1
    return place[indices], np.flatnonzero(used)
