"""The section ``clients`` of an experiment."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from fedrec.plugins import Section

__all__ = ["Clients"]


class Clients(Section):
    """Who is a client.

    Args:
        by: ``user`` (one user each), ``random`` (``count`` random groups), ``column`` (users that
            share the value of a user column) or ``taste`` (``count`` groups of similar users,
            computed from the train items alone).
        count: number of clients, for ``random`` and ``taste``.
        column: name of the user column, for ``column``.
        seed: of the grouping; not the run's seed, so that runs share their clients.
    """

    by: Literal["user", "random", "column", "taste"] = "user"
    count: int | None = Field(None, ge=1)
    column: str | None = None
    seed: int = Field(0, ge=0)

    def without_effect(self, experiment: Any, split: Any) -> list[str]:
        """Say which options belong to another way of grouping."""
        used = {"random": ("count", "seed"), "taste": ("count", "seed"), "column": ("column",)}
        others = [n for n in ("count", "column", "seed") if n not in used.get(self.by, ())]
        return self.unused(f"by: {self.by} does not use it", *others)

    @model_validator(mode="after")
    def _complete(self) -> Clients:
        if self.by in ("random", "taste") and self.count is None:
            raise ValueError(f"by: {self.by} needs 'count', the number of clients")
        if self.by == "column" and self.column is None:
            raise ValueError("by: column needs 'column', the name of a user column")
        return self
