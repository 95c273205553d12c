"""Each client's rows, item by item, for strategies that look at every client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from fedrec.types import FloatArray, IntArray, Params, RowBlock, UpdateBatch

__all__ = ["each_change", "per_item"]


def per_item(block: RowBlock) -> Iterator[tuple[IntArray, FloatArray]]:
    """The rows of an item table by item, items with equally many clients together.

    Args:
        block: the changed rows of all clients, in the order of the clients.

    Yields:
        items int64 [g], and float64 [g, m, ...]: the rows of the m clients that touched each, in
        the order of the clients.
    """
    order = np.argsort(block.ids, kind="stable")
    items, starts, counts = np.unique(block.ids[order], return_index=True, return_counts=True)
    for m in np.unique(counts).tolist():
        chosen = counts == m
        at = order[starts[chosen][:, None] + np.arange(m)]
        yield items[chosen], np.asarray(block.values[at], np.float64)


def each_change(
    params: Params, batch: UpdateBatch, rule: Callable[[FloatArray], FloatArray]
) -> Mapping[str, FloatArray]:
    """One change of every global parameter, chosen by a rule from those of the clients.

    Args:
        params: The global parameters, for their shapes.
        batch: Each client's update.
        rule: From float64 [g, m, n], n numbers of m clients for g items, to float64 [g, n]. All
            dense parameters are one item, of which the clients are all those of the cohort.

    Returns:
        Per name, float64 of the parameter's shape; 0 for an item that nobody touched.
    """
    change: dict[str, FloatArray] = {}
    for name, block in batch.tables.items():
        change[name] = np.zeros(params[name].shape, np.float64)
        for items, rows in per_item(block):
            flat = rows.reshape(*rows.shape[:2], -1)
            change[name][items] = rule(flat).reshape(len(items), *rows.shape[2:])
    if batch.dense:
        n = len(batch.client_ids)
        parts = [np.asarray(value, np.float64).reshape(n, -1) for value in batch.dense.values()]
        found = rule(np.concatenate(parts, axis=1)[None])[0]
        ends = np.cumsum([part.shape[1] for part in parts])
        for name, part in zip(batch.dense, np.split(found, ends[:-1]), strict=True):
            change[name] = part.reshape(params[name].shape)
    return change
