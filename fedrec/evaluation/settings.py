"""The section ``evaluate`` of an experiment."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from fedrec.evaluation.cutoffs import cutoff_warnings
from fedrec.evaluation.metrics.base import Metric, parse_metric
from fedrec.plugins import Section

__all__ = ["Evaluate"]


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
    block: int | Literal["auto"] = "auto"

    def without_effect(self, experiment: Any, split: Any) -> list[str]:
        """Say for which users a metric has the same value whatever the model."""
        lines = cutoff_warnings(self.parsed(), split, experiment.data.protocol)
        return [f"metrics: {line}" for line in lines]

    @field_validator("block")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("expected a number from 1, or 'auto'")
        return value

    @field_validator("metrics")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("expected at least one metric; the first chooses the round")
        parsed = [parse_metric(label) for label in value]
        if parsed[0].kind != "per_user":
            raise ValueError(
                f"the first metric chooses the round and must be per user, not {value[0]}"
            )
        return value

    def parsed(self) -> tuple[Metric, ...]:
        """Return the metrics as values."""
        return tuple(parse_metric(label) for label in self.metrics)
