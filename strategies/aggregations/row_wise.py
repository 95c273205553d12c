"""Aggregations that choose each item's change from those of the clients that touched it."""

from abc import abstractmethod
from collections.abc import Iterator
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedrec.aggregation.returned import checked_change
from fedrec.aggregation.update import Aggregate, RowBlock
from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError
from fedrec.plugins import name_of
from fedrec.types import FloatArray, IntArray, Params, State
from strategies.aggregations.base import Aggregation

_VALUES_TOGETHER = 2**20
"""Numbers of the items that are given to a rule at once, so that they stay in the cache."""


class RowWise(Aggregation):
    """Applies a rule to the rows of every item, one row per client that touched it.

    All dense parameters together are one item, which all clients of the cohort touched. Every
    client's update travels to the server by itself, and all clients count the same: the number of
    examples by which they could be weighted is what they say of themselves.

    Args:
        min_clients: How many clients must touch an item for the rule to be applied; more where it
            needs more. Of fewer, no majority can be trusted.
        below: What an item takes that fewer clients touched: the coordinate-wise ``median`` or the
            ``mean`` of their changes, or nothing (``skip``).
    """

    needs: ClassVar[Literal["sums", "each"]] = "each"

    min_clients: int = Field(3, ge=1)
    below: Literal["median", "mean", "skip"] = "median"

    @property
    def clients_needed(self) -> int:
        """How many clients the rule needs; 1 by default."""
        return 1

    @abstractmethod
    def choose(self, rows: FloatArray) -> FloatArray:
        """Return the change of g items, float [g, n].

        Args:
            rows: float32 [g, m, n], n numbers of m clients for g items; those of a number lie side
                by side in memory.
        """

    def without_effect(self, run: Any) -> list[str]:
        """Say that most items are touched by too few clients for the rule.

        Raises:
            ConfigError: If a round has too few clients.
        """
        experiment, name = run.experiment, name_of("aggregations", self)
        n, least = run.split.n_clients, self._clients_needed
        cohort = experiment.rounds.clients_of(n)
        if cohort < least:
            advice = "raise rounds.cohort_size" if cohort < n else "lower its options"
            raise ConfigError(
                f"strategy.aggregation: {name} takes {least} clients, and a round has {cohort}; "
                f"{advice}, or take another aggregation"
            )
        why = "items that few clients touched take the median in any case"
        lines = self.unused(why, "min_clients") if name == self.below else []
        if self.min_clients < self.clients_needed:
            why = f"the rule takes {self.clients_needed} clients"
            lines += self.unused(why, "min_clients")
        pairs = run.split.train.lengths * (1 + experiment.train.negatives * run.task.shared_epochs)
        touched = np.minimum(pairs, run.split.n_items).sum() / run.split.n_items
        each = min(cohort, touched * cohort / run.split.n_clients)
        if each < least:
            lines.append(
                f"name: {name} has no effect on most items: it takes {least} clients, and of the "
                f"{cohort} of a round about {each:.1f} train one; raise rounds.cohort_size, or "
                "take another aggregation"
            )
        return lines

    def change(
        self, state: State, params: Params, aggregate: Aggregate, context: RoundContext
    ) -> tuple[State, Params]:
        """Return the chosen changes, item by item."""
        batch = aggregate.each
        assert batch is not None
        change: dict[str, FloatArray] = {}
        for name in (name for name in batch.tables if name in params):
            change[name] = np.zeros(params[name].shape, np.float64)
            flat = change[name].reshape(len(change[name]), -1)
            for items, rows in rows_by_item(batch.tables[name]):
                flat[items] += self._joint(rows)  # to add makes 0 of -0
        dense = {name: value for name, value in batch.dense.items() if name in params}
        if dense:
            n = len(batch.client_ids)
            columns = [np.asarray(value).reshape(n, -1) for value in dense.values()]
            ends = np.cumsum([values.shape[1] for values in columns])
            joined = self._joint(_by_number(np.concatenate(columns, axis=1)[None]))[0] + 0.0
            for name, values in zip(dense, np.split(joined, ends[:-1]), strict=True):
                change[name] = np.asarray(values, np.float64).reshape(params[name].shape)
        return state, change

    @property
    def _clients_needed(self) -> int:
        return max(self.clients_needed, self.min_clients)

    def _joint(self, rows: FloatArray) -> FloatArray:
        """Return the change of g items, float [g, n], of rows as for `choose`."""
        if rows.shape[1] >= self._clients_needed:
            where = f"aggregation {name_of('aggregations', self)}: choose"
            return checked_change(where, {"": self.choose(rows)}, {"": rows[:, 0]}, [rows])[""]
        if self.below == "skip":
            return np.zeros((len(rows), rows.shape[2]))
        return median_of(rows) if self.below == "median" else rows.mean(1, dtype=np.float64)


def median_of(rows: FloatArray) -> FloatArray:
    """Return the coordinate-wise median over clients, float [g, m, n] -> float64 [g, n]."""
    m = rows.shape[1]
    middle = np.sort(rows, axis=1)[:, (m - 1) // 2 : m // 2 + 1]
    return np.asarray(middle.mean(1, dtype=np.float64))


def rows_by_item(block: RowBlock) -> Iterator[tuple[IntArray, FloatArray]]:
    """Group the rows of an item table by item, items with equally many clients together.

    Args:
        block: The changed rows of all clients, in the order of the clients.

    Yields:
        items int64 [g], and float [g, m, n]: the rows of the m clients that touched each, in the
        order of the clients; those of a number lie side by side in memory.
    """
    by_item = np.argsort(block.ids, kind="stable")
    items, starts, counts = np.unique(block.ids[by_item], return_index=True, return_counts=True)
    values = block.values.reshape(len(block.ids), prod(block.values.shape[1:]))
    for m in np.unique(counts).tolist():
        alike = np.flatnonzero(counts == m)
        together = max(1, _VALUES_TOGETHER // (m * max(m, values.shape[1])))
        for start in range(0, len(alike), together):
            chosen = alike[start : start + together]
            at = by_item[starts[chosen][:, None] + np.arange(m)]
            yield items[chosen], _by_number(values[at])


def _by_number(rows: FloatArray) -> FloatArray:
    """Return rows, [g, m, n], laid out so that to go through the clients of a number is fast."""
    return np.ascontiguousarray(rows.transpose(0, 2, 1)).transpose(0, 2, 1)
