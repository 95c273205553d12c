"""Measures of rankings. To add one: a file with a class, and a line in the table."""

from collections.abc import Mapping

from fedrec.evaluation.metrics.base import ExposureMetric, Metric, PerUserMetric, parse_metric
from fedrec.evaluation.metrics.coverage import Coverage
from fedrec.evaluation.metrics.gini import Gini
from fedrec.evaluation.metrics.hit_rate import HitRate
from fedrec.evaluation.metrics.mrr import MRR
from fedrec.evaluation.metrics.ndcg import NDCG
from fedrec.evaluation.metrics.recall import Recall

__all__ = ["METRICS", "ExposureMetric", "Metric", "PerUserMetric", "parse_metric"]

METRICS: Mapping[str, type[Metric]] = {
    "ndcg": NDCG,
    "hit_rate": HitRate,
    "recall": Recall,
    "mrr": MRR,
    "coverage": Coverage,
    "gini": Gini,
}
"""All measures by the name under which the configuration finds them."""
