"""The section ``evaluate`` of an experiment."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from fedrec.evaluation.metrics import Metric, PerUserMetric, parse_metric
from fedrec.evaluation.ranking import LEGACY_CANDIDATES
from fedrec.plugins import Count, Section
from fedrec.types import Split


class Evaluate(Section):
    """When and how the clients rank the catalogue.

    Args:
        every: rounds between evaluations; the last round is always evaluated.
        metrics: such as ``ndcg@10``, ``hit_rate@10``, ``recall@20``, ``mrr``, ``coverage@10``.
            The first chooses the round, on validation.
        block: users whose scores are computed together, or ``auto``: as many as 16 MiB of scores
            hold, from 64. Changes no bit of the result and bounds the memory of each process:
            block x items x 4 bytes for a model by itself, about four times that for three views.
            With more users than that, PLGC's similarity branch over a ``flat`` model ranks 128
            items at a time for all users instead, where numba is installed.
    """

    every: int = Field(5, ge=1)
    metrics: tuple[str, ...] = (
        "ndcg@10",
        "hit_rate@10",
        "recall@10",
        "mrr",
        "coverage@10",
        "gini@10",
    )
    block: Count | Literal["auto"] = "auto"

    def without_effect(self, experiment: Any, split: Any) -> list[str]:
        """Say for which users a metric has the same value whatever the model."""
        lines = cutoff_warnings(self.parsed(), split, experiment.data.protocol)
        return [f"metrics: {line}" for line in lines]

    @field_validator("metrics")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("expected at least one metric; the first chooses the round")
        parsed = [parse_metric(label) for label in value]
        if not isinstance(parsed[0], PerUserMetric):
            raise ValueError(
                f"the first metric chooses the round and must be per user, not {value[0]}"
            )
        labels = [metric.label for metric in parsed]
        if len({*labels}) < len(labels):
            twice = max(labels, key=labels.count)
            raise ValueError(f"'{twice}' is given twice; leave one of them out")
        return value

    def parsed(self) -> tuple[Metric, ...]:
        """Return the metrics as values."""
        return tuple(parse_metric(label) for label in self.metrics)


def cutoff_warnings(
    metrics: Sequence[Metric], split: Split, protocol: Literal["clean", "legacy"]
) -> list[str]:
    """Return one line for each fact: users with long enough lists, with no items held out.

    Args:
        metrics: what is measured.
        split: the data.
        protocol: of the ranking.
    """
    held_out = np.stack([split.valid.lengths, split.test.lengths])
    left = split.n_items - split.train.lengths - np.stack([0 * held_out[0], held_out[0]])
    if protocol == "legacy":
        left = np.minimum(left, held_out + LEGACY_CANDIDATES)
    is_ranked = held_out > 0
    n_ranked = np.count_nonzero(is_ranked.any(axis=0))
    lines = [
        f"{np.count_nonzero(~of_part)} of {split.n_users} users have no {what} items; the means "
        "leave them out"
        for what, of_part in zip(("validation", "test"), is_ranked, strict=True)
        if not of_part.all()
    ]
    least = left[is_ranked].min(initial=split.n_items)
    cutoffs = {m.label: m.k for m in metrics if m.k and isinstance(m, PerUserMetric)}
    cutoffs = {label: k for label, k in cutoffs.items() if k >= least}
    if cutoffs:
        k = max(cutoffs.values())
        few = np.count_nonzero((is_ranked & (left <= k)).any(axis=0))
        lines.append(
            f"{', '.join(cutoffs)}: {few} of {n_ranked} users have at most {k} items left to rank "
            "in validation or test, so every list holds their held-out items whatever the model; "
            "choose a lower cut-off"
        )
    if alone := np.count_nonzero((is_ranked & (left <= held_out)).any(axis=0)):
        lines.append(
            f"{alone} of {n_ranked} users have nothing but held-out items left to rank in "
            "validation or test, so every metric is perfect for them"
        )
    return lines
