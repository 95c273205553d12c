"""What popularity scores: the level from which a model has learnt something of its own."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fedrec.baselines.base import Scorer
from fedrec.baselines.popularity import Popularity
from fedrec.config.experiment import Experiment
from fedrec.evaluation.evaluate import Evaluation, evaluate
from fedrec.evaluation.metrics.base import Metric
from fedrec.evaluation.ranking import PARTS
from fedrec.types import Split

__all__ = ["evaluate_scorer", "is_near_popularity", "near_popularity", "popularity_scores"]

MARGIN = 1.05
"""A validation score below this many times popularity's is near it."""


def popularity_scores(experiment: Experiment, split: Split) -> dict[str, dict[str, float]] | None:
    """Return the experiment's first metric of the popularity baseline, per part.

    Args:
        experiment: What is run.
        split: The data of all users.

    Returns:
        None for protocol ``legacy``, which ranks other candidates; nothing for a part in which no
        user has items held out.
    """
    if experiment.data.protocol != "clean":
        return None
    metrics = experiment.evaluate.parsed()[:1]
    scorer = Popularity().fit(split, experiment.seed)
    evaluation = evaluate_scorer(scorer, split, metrics, experiment.evaluate.block)
    scores = {part: evaluation.summarise(metrics, "mixed", part) for part in PARTS}
    return {part: {k: v for k, v in of_part.items() if v == v} for part, of_part in scores.items()}


def is_near_popularity(score: float, popularity: float) -> bool:
    """Return whether a validation score is below 1.05 times popularity's."""
    return score < MARGIN * popularity


def near_popularity(round: int | None, label: str, score: float, popularity: float) -> str:
    """Return the warning for a chosen round that is near popularity."""
    return (
        f"round {round}, which validation chose, has {label} {score:.4f}, and ranking by "
        f"popularity has {popularity:.4f}: the model has learnt little beyond which items are "
        "popular; train longer (rounds.count, rounds.patience) or change the rates "
        "(train.optimizers, strategy.server_lr)"
    )


def evaluate_scorer(
    scorer: Scorer, split: Split, metrics: tuple[Metric, ...], block: int | Literal["auto"] = "auto"
) -> Evaluation:
    """Let all users rank the catalogue by the scores of a centralised method.

    Args:
        scorer: From user indices to scores.
        split: The data.
        metrics: What to measure.
        block: See `fedrec.evaluation.evaluate.evaluate`.
    """
    shard = split.shard(np.arange(split.n_clients, dtype=np.int64))
    return evaluate(shard, lambda rows: {"mixed": scorer(shard.user_ids[rows])}, metrics, block)
