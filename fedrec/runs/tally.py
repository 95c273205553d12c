"""What the rounds of a run add up to, and which of them validation chose."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from fedrec.data.textfile import stem_of
from fedrec.runs.log import RoundRecord
from fedrec.runs.reference import is_near_popularity

__all__ = ["Tally", "described"]

FALLEN = 0.99
"""A training loss below this many times the lowest so far has fallen."""


class Tally:
    """Adds up rounds as they come, so that none is kept but the best.

    The best round has the highest value of the first metric on validation, the earliest of
    equals; where nobody has validation items, it is the latest that was evaluated.

    Args:
        metric: The metric that chooses, such as ``ndcg@10``.
        popularity: Returns popularity's score on validation, or None where it is not known.
    """

    def __init__(self, metric: str, popularity: Callable[[], float | None] = lambda: None) -> None:
        self._metric = metric
        self._popularity = popularity
        self.first_loss: float | None = None
        self._lowest_loss = math.inf
        self.best: RoundRecord | None = None
        self.stale = 0
        """Evaluations since the last progress: a better score or, while the best score is near
        popularity, a training loss that has fallen by 1 %."""
        self.rounds = 0
        self.seconds = {"train": 0.0, "evaluate": 0.0}
        self._clients = 0
        self._bytes = {name: {"up": 0, "down": 0} for name in ("bytes", "simulation")}

    def add(self, record: RoundRecord) -> bool:
        """Add a round; return whether it is the best so far."""
        self.rounds = record.round
        self._clients += record.clients
        for name in self.seconds:
            self.seconds[name] += getattr(record.seconds, name)
        for name, sums in self._bytes.items():
            for way in sums:
                sums[way] += getattr(getattr(record, name), way)
        if self.first_loss is None:
            self.first_loss = record.loss
        if record.evaluation is None:
            return False
        better = self._is_better(record)
        if better:
            self.best = record
        loss = math.inf if record.loss is None else record.loss
        fallen = loss < FALLEN * self._lowest_loss
        if fallen:
            self._lowest_loss = loss
        progress = better or (fallen and self.scores_near_popularity() is not None)
        self.stale = 0 if progress else self.stale + 1
        return better

    def scores_near_popularity(self) -> tuple[float, float] | None:
        """Return the best score and popularity's if they are near; None otherwise."""
        score = None if self.best is None else self.best.score("valid", self._metric)
        popularity = None if score is None else self._popularity()
        if score is None or popularity is None or not is_near_popularity(score, popularity):
            return None
        return score, popularity

    def result(self) -> dict[str, Any]:
        """Return what ``result.json`` says of the rounds."""
        views = dict((self.best.evaluation if self.best else None) or {})
        mixed = views.pop("mixed", {})
        train = self.seconds["train"]
        return {
            "best_round": self.best.round if self.best else None,
            "rounds": self.rounds,
            "metrics": {
                "valid": dict(mixed.get("valid", {})),
                "test": dict(mixed.get("test", {})),
                "views": {view: dict(parts.get("test", {})) for view, parts in views.items()},
            },
            "seconds": {**self.seconds, "total": sum(self.seconds.values())},
            "clients_per_second": self._clients / train if train else None,
            **{name: dict(sums) for name, sums in self._bytes.items()},
        }

    def _is_better(self, record: RoundRecord) -> bool:
        score = record.score("valid", self._metric)
        best = self.best.score("valid", self._metric) if self.best is not None else None
        return score is None or best is None or score > best


def described(config: Mapping[str, Any], centralised: bool = False) -> dict[str, Any]:
    """Return what ``result.json`` says of an experiment.

    Args:
        config: The experiment, as values of JSON.
        centralised: Whether it is a baseline.
    """
    sections = ("data", "model", "personalization", "strategy")
    names = {section: _name(config.get(section)) for section in sections}
    path = (config.get("data") or {}).get("path")
    if path:
        names["data"] = stem_of(path)
    method = ("model",) if centralised else ("personalization", "model", "strategy")
    return {
        "name": " + ".join(names[section] for section in method),
        **names,
        "seed": config.get("seed"),
        "protocol": (config.get("data") or {}).get("protocol", "unknown"),
    }


def _name(section: Any) -> str:
    return str(section.get("name", "?") if isinstance(section, Mapping) else section or "?")
