"""Base of strategies that choose each item's change from those of single clients."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from pydantic import Field

from fedrec.aggregation.reduce import stepped
from fedrec.plugins import name_of
from fedrec.types import Aggregate, FloatArray, IntArray, Params, RowBlock
from strategies.base import State, Strategy

__all__ = ["Rowwise", "per_item"]


class Rowwise(Strategy):
    """Applies a rule to the rows of every item, one row per client that touched it.

    All dense parameters together are one item, which all clients of the cohort touched.
    """

    needs = "each"

    weighting: Literal["uniform"] = "uniform"
    server_lr: float = Field(1.0, gt=0)

    @property
    @abstractmethod
    def least(self) -> int:
        """How many clients must touch an item for the rule to do more than a plainer one."""

    def without_effect(self, experiment: Any, split: Any) -> list[str]:
        """Say that rounds have too few clients for the rule, or touch most items too rarely."""
        cohort, train = experiment.rounds.clients_of(split.n_clients), experiment.train
        pairs = split.train.lengths * (1 + train.negatives * train.local_epochs)
        touched = np.minimum(pairs, split.n_items).sum() / split.n_items
        each = min(cohort, touched * cohort / split.n_clients)
        if each >= self.least:
            return []
        what, there = " on most items", f"of the {cohort} of a round about {each:.1f} train one"
        if cohort < self.least:
            what, there = "", f"a round has {cohort}"
        return [
            f"name: {name_of('strategies', self)} has no effect{what}: it takes {self.least} "
            f"clients, and {there}; raise rounds.cohort_size, or take another strategy"
        ]

    @abstractmethod
    def choose(self, rows: FloatArray) -> FloatArray:
        """Return the change of g items, float64 [g, n].

        Args:
            rows: float64 [g, m, n], n numbers of m clients for g items.
        """

    def apply(self, state: State, params: Params, aggregate: Aggregate) -> tuple[State, Params]:
        """Return the parameters after one step along the chosen changes."""
        batch = aggregate.each
        assert batch is not None
        change: dict[str, FloatArray] = {}
        for name, block in batch.tables.items():
            change[name] = np.zeros(params[name].shape, np.float64)
            for items, rows in per_item(block):
                chosen = self.choose(rows.reshape(*rows.shape[:2], -1))
                change[name][items] = chosen.reshape(len(items), *rows.shape[2:])
        if batch.dense:
            n = len(batch.client_ids)
            flat = [np.asarray(value, np.float64).reshape(n, -1) for value in batch.dense.values()]
            ends = np.cumsum([values.shape[1] for values in flat])
            joined = self.choose(np.concatenate(flat, axis=1)[None])[0]
            for name, values in zip(batch.dense, np.split(joined, ends[:-1]), strict=True):
                change[name] = values.reshape(params[name].shape)
        return state, stepped(params, change, self.server_lr)


def per_item(block: RowBlock) -> Iterator[tuple[IntArray, FloatArray]]:
    """Group the rows of an item table by item, items with equally many clients together.

    Args:
        block: the changed rows of all clients, in the order of the clients.

    Yields:
        items int64 [g], and float64 [g, m, ...]: the rows of the m clients that touched each, in
        the order of the clients.
    """
    by_item = np.argsort(block.ids, kind="stable")
    items, starts, counts = np.unique(block.ids[by_item], return_index=True, return_counts=True)
    for m in np.unique(counts).tolist():
        chosen = counts == m
        at = by_item[starts[chosen][:, None] + np.arange(m)]
        yield items[chosen], np.asarray(block.values[at], np.float64)
