"""Measures of rankings. To add one: a class, and a line in the table at the end."""

import math
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedrec.errors import ConfigError
from fedrec.plugins import Plugin, lookup, name_of
from fedrec.ragged import Ragged
from fedrec.types import FloatArray, IntArray


class Metric(Plugin):
    """A measure of rankings.

    Args:
        k: length of the list that is looked at; None for the whole ranking.

    Attributes:
        needs_k: Whether it has no value without k.
        bounds: The lowest and the highest value.
    """

    needs_k: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    k: int | None = Field(None, ge=1)

    @property
    def label(self) -> str:
        """Return such as ``ndcg@10``."""
        name = name_of("metrics", self)
        return name if self.k is None else f"{name}@{self.k}"

    @property
    def depth(self) -> int:
        """Return the last rank that counts."""
        return sys.maxsize if self.k is None else self.k

    def check(self, values: FloatArray, source: Callable[[int], str]) -> None:
        """Check that computed values are finite, and within the bounds that the class declares.

        Args:
            values: of any length.
            source: tells, for the position of a value, what it was computed from.

        Raises:
            ConfigError: Names the class and the first value that is not.
        """
        declared = self.bounds is not Metric.bounds  # the same numbers may be declared too
        low, high = self.bounds if declared else (-math.inf, math.inf)
        wrong = np.flatnonzero(~(np.isfinite(values) & (values >= low) & (values <= high)))
        if len(wrong):
            raise ConfigError(
                f"evaluate.metrics: {self.label} (class {type(self).__name__}) gave "
                f"{values[wrong[0]]:g} for {source(int(wrong[0]))}; expected a finite number"
                + f" from {low:g} to {high:g}"
                * declared
            )


class RankMetric(Metric):
    """One value per user, from the ranks of some items; the metric is their mean."""

    @abstractmethod
    def per_user(self, ranks: Ragged) -> FloatArray:
        """Return the value of each user, float64 [n].

        Args:
            ranks: one row per user that has such items: their ranks (from 1), sorted.
        """


class PerUserMetric(RankMetric):
    """One value per user, from the ranks of the held-out items."""

    def chance(self, left: IntArray, held_out: IntArray) -> FloatArray:
        """Return the expected value of each user under random scores, float64 [n].

        Args:
            left: int64 [n], how many items the user ranks.
            held_out: int64 [n], how many of them are held out, at least one.

        Returns:
            NaN where it is not known, as for a metric that does not override this.
        """
        return np.full(len(left), np.nan)


class TargetMetric(RankMetric):
    """One value per user, from the ranks of the items of ``evaluate.targets``.

    Those of a user are the targets that are in none of its train, validation and test items; a
    user without any does not count. They are ranked as for the test: among all items but the
    user's train and validation items. So it has values for the part ``test`` alone.
    """


class ExposureMetric(Metric):
    """One value for how the recommendations of k items spread over the catalogue."""

    @abstractmethod
    def value(self, exposure: IntArray) -> float:
        """Return the value.

        Args:
            exposure: int64 [n_items], in how many users' top-k lists each item stands.
        """


def parse_metric(label: str) -> Metric:
    """Return the metric of a label.

    Args:
        label: ``name`` or ``name@k``.

    Raises:
        ConfigError: If the name is unknown, or k is missing or not a positive number.
    """
    name, at, cut = label.partition("@")
    metric = lookup("metrics", name)
    if not issubclass(metric, Metric):
        raise ConfigError(f"'{name}' is not a metric")
    if at and not (cut.isdigit() and int(cut) > 0):
        raise ConfigError(f"metric '{label}': expected {name}@k with k a number from 1")
    if (metric.needs_k or issubclass(metric, ExposureMetric)) and not at:
        raise ConfigError(f"metric '{label}': expected {name}@k, such as {name}@10")
    return metric(k=int(cut) if at else None)


class HitRate(PerUserMetric):
    r"""Share of the users with a held-out item in their top k.

    .. math:: \mathrm{HR}@k(u) = [\min_i r_{ui} \le k]

    with :math:`r_{ui}` the rank, from 1, of held-out item i.
    """

    def per_user(self, ranks: Ragged) -> FloatArray:
        """Return 0 or 1 for each user, float64 [n]."""
        return (ranks.values[ranks.offsets[:-1]] <= self.depth).astype(np.float64)

    def chance(self, left: IntArray, held_out: IntArray) -> FloatArray:
        """Return one minus the chance that all of them stand below k, float64 [n]."""
        *_, below = _all_below(left, held_out, self.depth)
        return 1.0 - below


class Recall(PerUserMetric):
    r"""Share of a user's held-out items that stand in its top k.

    .. math:: \mathrm{Recall}@k(u) = \frac{|\{i : r_{ui} \le k\}|}{|H_u|}

    with :math:`r_{ui}` the rank, from 1, of item i of the held-out items :math:`H_u`. The
    denominator is not cut at k, so a user with more than k held-out items cannot reach 1.
    """

    def per_user(self, ranks: Ragged) -> FloatArray:
        """Return from 0 to 1 for each user, float64 [n]."""
        return _share_of_top(ranks, self.depth)

    def chance(self, left: IntArray, held_out: IntArray) -> FloatArray:
        """Return the share of the list in what is ranked, float64 [n]."""
        return np.minimum(self.depth, left) / left


class NDCG(PerUserMetric):
    r"""Discounted gain of the held-out items in the top k, over that of the ideal list.

    .. math::
        \mathrm{NDCG}@k(u) = \frac{\sum_{i \in H_u, r_{ui} \le k} 1 / \log_2(1 + r_{ui})}
                                  {\sum_{r=1}^{\min(|H_u|, k)} 1 / \log_2(1 + r)}

    with :math:`r_{ui}` the rank, from 1, of item i of the held-out items :math:`H_u`; gains are
    binary.

    Reference: jarvelin2002cumulated, with binary gains.
    """

    reference: ClassVar[str] = "jarvelin2002cumulated"

    def per_user(self, ranks: Ragged) -> FloatArray:
        """Return from 0 to 1 for each user, float64 [n]."""
        longest = int(max(ranks.values.max(initial=1), ranks.lengths.max(initial=1)))
        depth = min(self.depth, longest)
        # One table of discounts, so that a value never depends on its place in the array.
        discount = 1.0 / np.log2(np.arange(2, longest + 2, dtype=np.float64))
        gains = np.where(ranks.values <= depth, discount[ranks.values - 1], 0.0)
        ideal = np.cumsum(discount)[np.minimum(ranks.lengths, depth) - 1]
        return np.asarray(np.bincount(ranks.owners(), gains, len(ranks)) / ideal)

    def chance(self, left: IntArray, held_out: IntArray) -> FloatArray:
        """Return the discounts of the list, each as likely to be gained, over the ideal's."""
        gained = np.cumsum(1.0 / np.log2(np.arange(2, left.max(initial=1) + 2, dtype=np.float64)))
        depth = np.minimum(self.depth, left)
        return np.asarray(
            gained[depth - 1] * held_out / left / gained[np.minimum(held_out, depth) - 1]
        )


class MRR(PerUserMetric):
    r"""One over the rank of the user's best held-out item; 0 where it is beyond k.

    .. math:: \mathrm{MRR}@k(u) = \frac{[r_u \le k]}{r_u}, \quad r_u = \min_{i} r_{ui}

    with :math:`r_{ui}` the rank, from 1, of held-out item i. Without k the whole ranking counts.
    """

    needs_k: ClassVar[bool] = False

    def per_user(self, ranks: Ragged) -> FloatArray:
        """Return from 0 to 1 for each user, float64 [n]."""
        best = ranks.values[ranks.offsets[:-1]]
        return (best <= self.depth) / best

    def chance(self, left: IntArray, held_out: IntArray) -> FloatArray:
        """Return the mean over the places of the best item, float64 [n]."""
        expected, before = np.zeros(len(left)), np.ones(len(left))
        for rank, below in enumerate(_all_below(left, held_out, self.depth)):
            if rank > 0:
                expected += (before - below) / rank
            before = below
        return expected


class ExposureRate(TargetMetric):
    r"""Share of the target items a user does not have that stand in its top k.

    .. math:: \mathrm{ER}@k(u) = \frac{|\{i \in T_u : r_{ui} \le k\}|}{|T_u|}

    with :math:`r_{ui}` the rank, from 1, of item i of the targets :math:`T_u` that are not among
    the user's items. What an attack that promotes items wants to raise; compare it with that of
    the same run without attack. Items of the user's test are ranked too; the code of the reference
    leaves them out.

    Reference: rong2022fedrecattack.
    """

    reference: ClassVar[str] = "rong2022fedrecattack"

    def per_user(self, ranks: Ragged) -> FloatArray:
        """Return from 0 to 1 for each user, float64 [n]."""
        return _share_of_top(ranks, self.depth)


def _share_of_top(ranks: Ragged, k: int) -> FloatArray:
    """Return the share of each row that is at most k, float64 [n]."""
    return np.asarray(np.bincount(ranks.owners(), ranks.values <= k, len(ranks)) / ranks.lengths)


def _all_below(left: IntArray, held_out: IntArray, k: int) -> Iterator[FloatArray]:
    r"""Yield the chance that all held-out items of a random ranking stand below rank r.

    .. math:: P(r_u > r) = \binom{n - r}{m} / \binom{n}{m}

    with m held-out items among n. For r = 0, 1, ... up to k, or to the longest list.
    """
    below = np.ones(len(left))
    yield below
    for rank in range(min(k, int(left.max(initial=0)))):
        below = below * np.maximum(left - held_out - rank, 0) / np.maximum(left - rank, 1)
        yield below


class Coverage(ExposureMetric):
    r"""Share of the catalogue that stands in at least one user's top k.

    .. math:: \mathrm{Coverage}@k = \frac{|\{i : x_i > 0\}|}{n}

    with :math:`x_i` the number of top-k lists that hold item i, and n the size of the catalogue.
    """

    def value(self, exposure: IntArray) -> float:
        """Return from 0 to 1."""
        return float(np.count_nonzero(exposure)) / len(exposure)


class Gini(ExposureMetric):
    r"""Inequality of the items' exposure.

    .. math:: G@k = \frac{\sum_{i=1}^{n} (2i - n - 1)\, x_{(i)}}{n \sum_i x_i}

    with :math:`x_{(1)} \le \dots \le x_{(n)}` the numbers of top-k lists that hold each item.
    0: every item is recommended equally often; (n - 1) / n: one item has all the exposure.
    """

    def value(self, exposure: IntArray) -> float:
        """Return from 0 to (n - 1) / n; NaN where nothing is recommended."""
        n, total = len(exposure), int(exposure.sum())
        if total == 0:
            return float("nan")
        # Integers until the one division: exact, whatever the order.
        weights = 2 * np.arange(1, n + 1, dtype=np.int64) - n - 1
        return int(weights @ np.sort(exposure)) / (n * total)


METRICS: Mapping[str, type[Metric]] = {
    "ndcg": NDCG,
    "hit_rate": HitRate,
    "recall": Recall,
    "mrr": MRR,
    "coverage": Coverage,
    "gini": Gini,
    "er": ExposureRate,
}
"""All measures by the name under which the configuration finds them."""
