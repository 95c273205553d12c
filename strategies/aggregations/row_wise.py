"""Aggregations that choose each item's change from those of the clients that touched it."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np

from fedrec.compute.context import RoundContext
from fedrec.plugins import name_of
from fedrec.types import Aggregate, FloatArray, IntArray, Params, RowBlock, State
from strategies.aggregations.base import Aggregation


class RowWise(Aggregation):
    """Applies a rule to the rows of every item, one row per client that touched it.

    All dense parameters together are one item, which all clients of the cohort touched. Every
    client's update travels to the server by itself.
    """

    needs: ClassVar[Literal["sums", "each"]] = "each"

    @property
    def least(self) -> int:
        """How many clients must touch an item for the rule to have an effect."""
        return 3

    def without_effect(self, run: Any) -> list[str]:
        """Say that rounds have too few clients for the rule, or touch most items too rarely."""
        cohort, train = run.experiment.rounds.clients_of(run.split.n_clients), run.experiment.train
        pairs = run.split.train.lengths * (1 + train.negatives * run.task.shared_epochs)
        touched = np.minimum(pairs, run.split.n_items).sum() / run.split.n_items
        each = min(cohort, touched * cohort / run.split.n_clients)
        if each >= self.least:
            return []
        what, there = " on most items", f"of the {cohort} of a round about {each:.1f} train one"
        if cohort < self.least:
            what, there = "", f"a round has {cohort}"
        return [
            f"name: {name_of('aggregations', self)} has no effect{what}: it takes {self.least} "
            f"clients, and {there}; raise rounds.cohort_size, or take another aggregation"
        ]

    @abstractmethod
    def choose(self, rows: FloatArray) -> FloatArray:
        """Return the change of g items, float64 [g, n].

        Args:
            rows: float64 [g, m, n], n numbers of m clients for g items.
        """

    def change(
        self, state: State, params: Params, aggregate: Aggregate, context: RoundContext
    ) -> tuple[State, Params]:
        """Return the chosen changes, item by item."""
        batch = aggregate.each
        assert batch is not None
        change: dict[str, FloatArray] = {}
        for name in (name for name in batch.tables if name in params):
            block = batch.tables[name]
            change[name] = np.zeros(params[name].shape, np.float64)
            for items, rows in rows_by_item(block):
                chosen = self.choose(rows.reshape(*rows.shape[:2], -1))
                change[name][items] = chosen.reshape(len(items), *rows.shape[2:])
        dense = {name: value for name, value in batch.dense.items() if name in params}
        if dense:
            n = len(batch.client_ids)
            flat = [np.asarray(value, np.float64).reshape(n, -1) for value in dense.values()]
            ends = np.cumsum([values.shape[1] for values in flat])
            joined = self.choose(np.concatenate(flat, axis=1)[None])[0]
            for name, values in zip(dense, np.split(joined, ends[:-1]), strict=True):
                change[name] = values.reshape(params[name].shape)
        return state, change


def median_of(rows: FloatArray) -> FloatArray:
    """Return the coordinate-wise median over clients, float64 [g, m, n] -> [g, n]."""
    return np.asarray(np.median(rows, axis=1))


def rows_by_item(block: RowBlock) -> Iterator[tuple[IntArray, FloatArray]]:
    """Group the rows of an item table by item, items with equally many clients together.

    Args:
        block: The changed rows of all clients, in the order of the clients.

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
