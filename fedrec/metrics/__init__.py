"""Measures of rankings. To add one: a file with a class, and a line in the table."""

from __future__ import annotations

from collections.abc import Mapping

from fedrec.metrics.base import ExposureMetric, Metric, PerUserMetric, parse_metric
from fedrec.metrics.coverage import Coverage
from fedrec.metrics.gini import Gini
from fedrec.metrics.hit_rate import HitRate
from fedrec.metrics.mrr import MRR
from fedrec.metrics.ndcg import NDCG
from fedrec.metrics.recall import Recall

__all__ = [
    "METRICS",
    "MRR",
    "NDCG",
    "Coverage",
    "ExposureMetric",
    "Gini",
    "HitRate",
    "Metric",
    "PerUserMetric",
    "Recall",
    "parse_metric",
]

METRICS: Mapping[str, type[Metric]] = {
    "ndcg": NDCG,
    "hit_rate": HitRate,
    "recall": Recall,
    "mrr": MRR,
    "coverage": Coverage,
    "gini": Gini,
}
"""All measures by the name under which the configuration finds them."""
