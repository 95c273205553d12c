"""Metrics, baselines and data sets that break a contract each; see `broken_plugins`."""

from dataclasses import replace
from itertools import count
from typing import ClassVar

import numpy as np

from fedrec.baselines import Popularity
from fedrec.baselines.base import Scorer
from fedrec.data import Synthetic
from fedrec.data.catalogue import Catalogue
from fedrec.evaluation.metrics import NDCG, ExposureMetric, Gini, HitRate, PerUserMetric
from fedrec.plugins import Plugin
from fedrec.ragged import Ragged
from fedrec.types import FloatArray, IntArray, Interactions, Split

__all__ = ["BROKEN_ALONE"]

COUNTER = count()


class Undefined(HitRate):
    """Has no value where nothing is hit."""

    def per_user(self, ranks: Ragged) -> FloatArray:
        hits = super().per_user(ranks)
        return np.where(hits > 0, hits, np.nan)


class Percent(NDCG):
    """Returns more than its bounds allow."""

    def per_user(self, ranks: Ragged) -> FloatArray:
        return 100 * super().per_user(ranks)


class Shares(Gini):
    """Is below its bounds where little is recommended."""

    def value(self, exposure: IntArray) -> float:
        return super().value(exposure) - float(exposure.mean() < 1)


class Running(PerUserMetric):
    """Sums over the users before."""

    needs_k: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (-np.inf, 0.0)

    def per_user(self, ranks: Ragged) -> FloatArray:
        return -np.cumsum(ranks.values[ranks.offsets[:-1]].astype(np.float64))


class Constant(PerUserMetric):
    """Knows no difference."""

    def per_user(self, ranks: Ragged) -> FloatArray:
        return np.full(len(ranks), 0.5)


class Ordered(ExposureMetric):
    """Weighs items by their number."""

    def value(self, exposure: IntArray) -> float:
        return float(exposure @ np.arange(len(exposure)))


class Peeking(Popularity):
    """Reads the test items."""

    def fit(self, split: Split, seed: int, catalogue: Catalogue | None = None) -> Scorer:
        extra = np.bincount(split.test.values, minlength=split.n_items).astype(np.float32)
        return lambda users: np.tile(extra, (len(users), 1))


class Relative(Popularity):
    """Scales scores by the number of users at hand."""

    def fit(self, split: Split, seed: int, catalogue: Catalogue | None = None) -> Scorer:
        scorer = super().fit(split, seed)
        return lambda users: (scorer(users) / len(users)).astype(np.float32)


class Wide(Popularity):
    """Returns float64."""

    def fit(self, split: Split, seed: int, catalogue: Catalogue | None = None) -> Scorer:
        scorer = super().fit(split, seed)
        return lambda users: scorer(users).astype(np.float64)


class Fresh(Synthetic):
    """Is drawn anew each time."""

    def load(self) -> Interactions:
        return Synthetic(users=20, items=30, taste_groups=2, seed=next(COUNTER)).load()


class Stamped(Synthetic):
    """Has another fingerprint each time."""

    def fingerprint(self) -> str:
        return f"{next(COUNTER)}"


class Beyond(Synthetic):
    """Has an item that has no id."""

    def load(self) -> Interactions:
        data = super().load()
        return replace(data, item_ids=data.item_ids[:-1])


BROKEN_ALONE: list[tuple[Plugin, set[str]]] = [
    (Undefined(k=10), {"perfect_is_best"}),
    (Percent(k=10), {"values_keep_their_bounds"}),
    (Shares(k=10), {"values_keep_their_bounds"}),
    (Running(), {"nothing_depends_on_order"}),
    (Constant(k=10), {"perfect_is_best"}),
    (Ordered(k=10), {"nothing_depends_on_order"}),
    (Peeking(), {"only_train_items_are_read"}),
    (Relative(), {"only_train_items_are_read"}),
    (Wide(), {"scores_are_finite"}),
    (Fresh(users=20, items=30, taste_groups=2), {"loading_twice_gives_the_same"}),
    (Stamped(users=20, items=30, taste_groups=2), {"loading_twice_gives_the_same"}),
    (Beyond(users=20, items=30, taste_groups=2), {"interactions_fit_together"}),
]
