"""Whom a metric tells nothing about: users with few items left to rank, or with none held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fedrec.evaluation.metrics.base import Metric, PerUserMetric
from fedrec.types import Split

__all__ = ["LEGACY_CANDIDATES", "cutoff_warnings"]

LEGACY_CANDIDATES = 99
"""Items that compete with the held-out one in the published protocol."""


def cutoff_warnings(
    metrics: Sequence[Metric], split: Split, protocol: Literal["clean", "legacy"]
) -> list[str]:
    """Return one line for each metric and part that some users cannot fail, or have no value in.

    Args:
        metrics: what is measured.
        split: the data.
        protocol: of the ranking.
    """
    lines = []
    masked = {"valid": split.train.lengths, "test": split.train.lengths + split.valid.lengths}
    for name, held_out in (("valid", split.valid.lengths), ("test", split.test.lengths)):
        what = {"valid": "validation", "test": "test"}[name]
        ranked = held_out > 0
        if not ranked.all():
            lines.append(
                f"{np.count_nonzero(~ranked)} of {len(ranked)} users have no {what} items; the "
                "means leave them out"
            )
        left = split.n_items - masked[name]
        if protocol == "legacy":
            left = np.minimum(left, held_out + LEGACY_CANDIDATES)
        for metric in metrics:
            if metric.k is None or not isinstance(metric, PerUserMetric):
                continue
            few = int(np.count_nonzero(ranked & (left <= metric.k)))
            if few > 0:
                lines.append(
                    f"{metric.label}: {few} of {np.count_nonzero(ranked)} users have at most "
                    f"{metric.k} items left to rank for the {what}, so every list holds their "
                    "held-out items whatever the model; choose a lower cut-off"
                )
        alone = int(np.count_nonzero(ranked & (left <= held_out)))
        if alone > 0:
            lines.append(
                f"{alone} of {np.count_nonzero(ranked)} users have nothing but held-out items left "
                f"to rank for the {what}, so every metric is perfect for them"
            )
    return lines
