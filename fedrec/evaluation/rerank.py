"""Two stages: a model orders some candidates of a first stage, which orders the rest below."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from fedrec.baselines.base import Baseline, Scorer
from fedrec.errors import ConfigError
from fedrec.plugins import Section, lookup
from fedrec.ragged import Ragged
from fedrec.types import FloatArray, IntArray, Split


class Rerank(Section):
    """Let the clients score a few candidates instead of the catalogue.

    The candidates of a user are the best items of the first stage but for its train items: the
    same for every model. Metrics are still those of the whole ranking, so an item that is no
    candidate stays where the first stage has it, below them.

    Args:
        n: Candidates of each user.
        first_stage: The name of a centralised baseline, which sees everybody's train items, as
            it is without options, such as ``popularity``.
    """

    n: int = Field(20, ge=1)
    first_stage: str = "popularity"

    @field_validator("first_stage")
    @classmethod
    def _is_a_baseline(cls, name: str) -> str:
        if not issubclass(lookup("models", name), Baseline):
            raise ConfigError(f"first_stage: {name} is no centralised baseline, such as popularity")
        return name

    def __str__(self) -> str:
        return f"re-ranks {self.n} of {self.first_stage}"


@dataclass(frozen=True, slots=True)
class TableOfScores:
    """The scores of some users, as a `fedrec.baselines.base.Scorer`.

    Args:
        users: int64 [u], sorted.
        scores: float32 [u, n_items], or [1, n_items] where all have the same.
    """

    users: IntArray
    scores: FloatArray

    def __call__(self, users: IntArray) -> FloatArray:
        """Return the scores of users, float32 [b, n_items]."""
        rows = np.searchsorted(self.users, users) if len(self.scores) > 1 else np.zeros_like(users)
        return self.scores[rows]


@dataclass(frozen=True, slots=True)
class FirstStage:
    """The first stage of a run, fitted.

    Args:
        scores: From users to their scores for the catalogue.
        n: Candidates of each user.
    """

    scores: Scorer
    n: int

    @classmethod
    def of(cls, rerank: Rerank, split: Split) -> Self:
        """Fit the first stage on the train items of all users; no seed of a run changes it."""
        baseline = lookup("models", rerank.first_stage)()
        assert isinstance(baseline, Baseline)
        return cls(baseline.fit(split, 0), rerank.n)

    def of_users(self, users: IntArray) -> Self:
        """Return what knows the scores of some users, int64 [u], and nothing of the others."""
        users = np.unique(users)
        scores = self.scores(users)
        scores = scores[:1] if (scores == scores[:1]).all() else scores
        return replace(self, scores=TableOfScores(users, np.array(scores)))

    def order(self, users: IntArray, train: Ragged) -> Tensor:
        """Return all items of some users, best first and train items last; int64 [b, n_items].

        Of equal scores the lowest item index comes first. The first ``n`` are the candidates.

        Args:
            users: int64 [b].
            train: One row per user of these: its train items.
        """
        scores = np.array(self.scores(users), np.float64)
        scores[train.owners(), train.values] = -np.inf
        return torch.as_tensor(np.argsort(-scores, axis=1, kind="stable"))


def reranked(scores: Tensor, order: Tensor, n: int) -> Tensor:
    """Return scores that order the candidates as the model does, and the rest as the first stage.

    Candidates have the number of candidates that the model scores lower, so equal scores stay
    equal; a score that is NaN stays NaN. The others have negative numbers.

    Args:
        scores: float [b, n_items]; only those of candidates are looked at.
        order: int64 [b, n_items], see `FirstStage.order`.
        n: Candidates of each user.

    Returns:
        float [b, n_items].
    """
    candidates = order[:, :n]
    chosen = scores.gather(1, candidates)
    lower = (chosen.unsqueeze(1) < chosen.unsqueeze(2)).sum(2).to(scores.dtype)
    result = torch.empty_like(scores)
    result.scatter_(1, order, -torch.arange(1, order.shape[1] + 1).to(result).expand(order.shape))
    return result.scatter_(1, candidates, torch.where(chosen.isnan(), chosen, lower))
