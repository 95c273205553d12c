"""Robust strategies: each item's change is chosen from those of single clients."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedrec.aggregation.reduce import stepped
from fedrec.plugins import name_of
from fedrec.types import Aggregate, FloatArray, IntArray, Params, RowBlock
from strategies.base import State, Strategy


class Rowwise(Strategy):
    """Applies a rule to the rows of every item, one row per client that touched it.

    All dense parameters together are one item, which all clients of the cohort touched. Every
    client's update travels to the server by itself.
    """

    needs = "each"

    weighting: Literal["uniform"] = "uniform"
    server_lr: float = Field(1.0, gt=0)

    @property
    def least(self) -> int:
        """How many clients must touch an item for the rule to have an effect.

        The median of two is their mean.
        """
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


def median_of(rows: FloatArray) -> FloatArray:
    """Return the coordinate-wise median over clients, float64 [g, m, n] -> [g, n]."""
    return np.asarray(np.median(rows, axis=1))


class Median(Rowwise):
    r"""Every coordinate of an item's row takes the median over the clients that touched the item.

    .. math:: x_i \leftarrow x_i + \eta \, \mathrm{med} \{ \Delta_{ui} : i \in S_u \}

    Clients that did not touch the item have no say: their zeros would be the median of nearly all
    items. Dense parameters take the median over all clients of the cohort.

    Args:
        server_lr: :math:`\eta`.

    Reference: yin2018byzantine, Algorithm 1, option I.
    """

    reference: ClassVar[str] = "yin2018byzantine"

    def choose(self, rows: FloatArray) -> FloatArray:
        """Return the coordinate-wise median over the clients."""
        return median_of(rows)


class Krum(Rowwise):
    r"""Every item's row takes the change of the client whose neighbours are nearest.

    Of the m clients that touched an item, client u scores
    :math:`\sum_{v \in N_u} \lVert \Delta_{ui} - \Delta_{vi} \rVert^2` over its
    :math:`m - f - 2` nearest others; the mean of the ``select`` lowest scores is taken (of equal
    scores, the lowest client ids). Clients touch different items, so there is no distance between
    whole updates; an item that fewer than :math:`2 f + 3` clients touched cannot be protected by
    this rule and takes the coordinate-wise median. All dense parameters together count as one item
    of all clients.

    Args:
        byzantine: f, how many clients may send anything at all.
        select: how many changes are averaged: 1 is Krum, more is Multi-Krum.
        server_lr: :math:`\eta`.

    Reference: blanchard2017machine, sections 4 and 5.
    """

    reference: ClassVar[str] = "blanchard2017machine"

    byzantine: int = Field(1, ge=0)
    select: int = Field(1, ge=1)

    @property
    def least(self) -> int:
        """2 f + 3 clients."""
        return 2 * self.byzantine + 3

    def choose(self, rows: FloatArray) -> FloatArray:
        """Return the mean change of the clients with the lowest scores, item by item."""
        if rows.shape[1] < self.least:
            return median_of(rows)
        # One item at a time: the distances of m clients take m * m numbers.
        return np.stack([self._krum(of_item) for of_item in rows])

    def _krum(self, rows: FloatArray) -> FloatArray:
        """float64 [n] from float64 [m, n]."""
        nearest = len(rows) - self.byzantine - 2
        squares = (rows * rows).sum(1)
        distance = np.maximum(squares[:, None] + squares - 2.0 * rows @ rows.T, 0.0)
        np.fill_diagonal(distance, np.inf)
        score = np.sort(distance, axis=1)[:, :nearest].sum(1)
        chosen = np.sort(np.argsort(score, kind="stable")[: self.select])
        return np.asarray(rows[chosen].mean(0))


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
