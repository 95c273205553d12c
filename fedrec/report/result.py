"""What a report reads from a run folder; values of another type are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Config", "Result"]

Values = Mapping[str, float | None]


class _Scores(BaseModel):
    valid: Values = {}
    test: Values = {}
    views: Mapping[str, Values] = {}


class _Evaluate(BaseModel):
    metrics: tuple[str, ...] = ()


class Config(BaseModel):
    """The parts of ``config.yaml`` that a report looks at."""

    data: Mapping[str, Any]
    model: Mapping[str, Any]
    personalization: Mapping[str, Any] = {}
    strategy: Mapping[str, Any] = {}
    evaluate: _Evaluate = _Evaluate()


class Result(BaseModel):
    """The parts of ``result.json`` that a report shows; see `fedrec.runs.recorder`."""

    model_config = ConfigDict(frozen=True)

    name: str | None = None
    data: str = "?"
    seed: int | None = None
    status: str = "interrupted"
    protocol: str = "unknown"
    ranking: str = "full"
    centralised: bool = False
    digest: str | None = None
    best_round: int | None = None
    rounds: int | None = None
    metrics: _Scores = Field(default_factory=_Scores)
    seconds: Values = {}
    bytes: Values = {}
    clients_per_second: float | None = None
    users: int | None = None
    items: int | None = None
    engine: Mapping[str, Any] = {}
    versions: Mapping[str, Any] = {}
    hardware: Mapping[str, Any] | str = {}
    commit: str | None = None
    started: str | None = None
    finished: str | None = None
    warnings: tuple[str, ...] = ()
    citations: tuple[str, ...] = ()
