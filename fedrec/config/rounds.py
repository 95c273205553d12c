"""The section ``rounds`` of an experiment."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from fedrec.plugins import Section

__all__ = ["Rounds"]


class Rounds(Section):
    """How long, and with whom.

    Args:
        count: rounds at most.
        cohort_size: clients in a round, or ``all``.
        cohort_fraction: the same as a share of all clients; excludes ``cohort_size``.
        patience: Stop after this many evaluations in a row without a better validation metric;
            None: never. As long as the best is not 5 % above popularity, where most models pause,
            an evaluation whose training loss has fallen by 1 % starts the count anew.
        max_failures: clients that may fail in a round before the run stops.
    """

    count: int = Field(100, ge=1)
    cohort_size: int | Literal["all"] = "all"
    cohort_fraction: float | None = Field(None, gt=0, le=1)
    patience: int | None = Field(15, ge=1)
    max_failures: int = Field(0, ge=0)

    def without_effect(self, experiment: Any, split: Any) -> list[str]:
        """Say that the run is too short for its patience, or that a share of 1 is all."""
        lines = []
        evaluations = -(-self.count // experiment.evaluate.every)
        default = type(self).model_fields["patience"].default
        if self.patience not in (None, default) and self.patience >= evaluations:
            lines.append(
                f"patience: {self.patience} has no effect: {self.count} rounds have only "
                f"{evaluations} evaluations (evaluate.every: {experiment.evaluate.every})"
            )
        if self.cohort_fraction == 1:
            lines.append("cohort_fraction: 1 has no effect: all clients take part by default")
        return lines

    @field_validator("cohort_size")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("expected a number from 1, or 'all'")
        return value

    @model_validator(mode="after")
    def _one_of(self) -> Rounds:
        if self.cohort_fraction is not None and self.cohort_size != "all":
            raise ValueError("cohort_fraction: excludes cohort_size; give one of them")
        return self
