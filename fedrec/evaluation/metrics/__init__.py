"""Measures of rankings. To add one: a class, and a line in the table."""

from collections.abc import Mapping

from fedrec.evaluation.metrics.base import ExposureMetric, Metric, PerUserMetric, parse_metric
from fedrec.evaluation.metrics.measures import MRR, NDCG, Coverage, Gini, HitRate, Recall

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
