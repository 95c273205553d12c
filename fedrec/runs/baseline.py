"""Centralised methods: tune one, let it rank, and know which scores are too low to count."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fedrec.baselines.base import Baseline, Scorer, TunableBaseline
from fedrec.baselines.methods import Popularity
from fedrec.config.experiment import Experiment
from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError, NumericError
from fedrec.evaluation.evaluate import Evaluation, evaluate
from fedrec.evaluation.metrics import Metric, PerUserMetric
from fedrec.evaluation.ranking import PARTS, Scores
from fedrec.evaluation.rerank import reranked
from fedrec.evaluation.settings import Evaluate
from fedrec.evaluation.slices import list_lengths, sliced
from fedrec.personalization.base import View
from fedrec.plugins import name_of
from fedrec.types import IntArray, Split

LOG = logging.getLogger("fedrec")


def tune(
    experiment: Experiment, split: Split, catalogue: Catalogue | None = None
) -> tuple[Baseline, dict[str, Any] | None]:
    """Choose the settings of a baseline that are not given, by the first metric on validation.

    Args:
        experiment: The baseline, and how it is evaluated.
        split: The data.
        catalogue: What is known of the items.

    Returns:
        The baseline with all of its settings, and what was tried, for the result; None for a
        baseline that has no settings.
    """
    model = experiment.model
    assert isinstance(model, Baseline)
    if not isinstance(model, TunableBaseline):
        return model, None
    name, settings = name_of("models", model), model.open_settings()
    if not settings:
        return model, {"tuned": [], "settings": model.settings()}
    if not model.tune or not len(split.valid.values):
        why = "model.tune is false" if not model.tune else "the split has no validation items"
        chosen = model.settings()
        LOG.warning(f"{name}: is untuned, because {why}; {_text(chosen)}")
        return model.model_copy(update=chosen), {"tuned": [], "untuned": why, "settings": chosen}
    metrics, label = experiment.evaluate.parsed()[:1], experiment.evaluate.chooser
    tried: list[tuple[float, TunableBaseline]] = []
    for candidate in model.candidates():
        scorer = candidate.fit(split, experiment.seed, catalogue)
        evaluation = evaluate_scorer(scorer, split, experiment.evaluate, metrics)
        score = evaluation.summarise(metrics, "mixed", "valid")[label]
        tried.append((score, candidate))
    score, best = max(tried, key=lambda pair: pair[0])
    LOG.info(
        f"{name}: {len(tried)} settings tried on validation, {_text(best.settings())} is best with "
        f"{label} {score:.4f}"
    )
    return best, {
        "tuned": list(settings),
        "metric": label,
        "settings": best.settings(),
        "tried": [{**candidate.settings(), "valid": score} for score, candidate in tried],
    }


def _text(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())


def popularity_scores(experiment: Experiment, split: Split) -> dict[str, dict[str, float]]:
    """Return the experiment's first metric of the popularity baseline, per part.

    Nothing for a baseline, nor for protocol ``legacy``, which ranks other candidates, nor for a
    part in which no user has items held out.
    """
    if isinstance(experiment.model, Baseline) or experiment.data.protocol != "clean":
        return {}
    metrics = experiment.evaluate.parsed()[:1]
    scorer = Popularity().fit(split, experiment.seed)
    evaluation = evaluate_scorer(scorer, split, experiment.evaluate, metrics)
    scores = {part: evaluation.summarise(metrics, "mixed", part) for part in PARTS}
    return {part: {k: v for k, v in of_part.items() if v == v} for part, of_part in scores.items()}


def tied_scores(experiment: Experiment, split: Split) -> dict[str, float]:
    """Return the metrics on the test items where all scores are equal, which count as worst."""
    metrics = [m for m in experiment.evaluate.parsed() if isinstance(m, PerUserMetric)]
    evaluation = evaluate_scorer(
        lambda users: np.zeros((len(users), split.n_items), np.float32),
        split,
        experiment.evaluate,
        metrics,
    )
    return evaluation.summarise(metrics)


def chance_levels(evaluate: Evaluate, split: Split) -> dict[str, dict[str, float]]:
    """Return the expected metrics of random scores per part, by label; nothing without slices.

    A metric whose expectation is not known, and a slice that nobody has items of, are left out.
    """
    slices, levels = evaluate.slices_of(split), dict[str, dict[str, float]]()
    if slices is None:
        return levels
    for name, of_slice in list_lengths(split, slices).items():
        for part, (left, held_out) in of_slice.items():
            sizes = np.stack([left, held_out])[:, held_out > 0]
            (left, held_out), users = np.unique(sizes, axis=1, return_counts=True)
            for metric in evaluate.parsed() if len(users) else ():
                if isinstance(metric, PerUserMetric):
                    level = float(np.average(metric.chance(left, held_out), weights=users))
                    if level == level:
                        levels.setdefault(part, {})[sliced(metric.label, name)] = level
    return levels


def slice_sizes(evaluate: Evaluate, split: Split) -> dict[str, dict[str, Any]]:
    """Return, per slice, how many items it holds, and per part whom its means are over.

    These are ``users``, those with items held out, and ``ranked``, how many items they rank on
    average (None for nobody).
    """
    slices = evaluate.slices_of(split)
    if slices is None:
        return {}
    lengths, sizes = list_lengths(split, slices), dict[str, dict[str, Any]]()
    for name in slices.names:
        users, ranked = dict[str, int](), dict[str, float | None]()
        for part, (left, held_out) in lengths[name].items():
            users[part] = int((held_out > 0).sum())
            ranked[part] = float(left[held_out > 0].mean()) if users[part] else None
        items = int(slices.items(name).sum())
        sizes[name] = {"items": items, "users": users, "ranked": ranked}
    return sizes


def evaluate_scorer(
    scorer: Scorer,
    split: Split,
    settings: Evaluate,
    metrics: Sequence[Metric] | None = None,
    targets: IntArray | None = None,
) -> Evaluation:
    """Let all users rank the catalogue by the scores of a centralised method.

    Args:
        scorer: the scores.
        split: the data.
        settings: how it is evaluated.
        metrics: measured instead of all that the settings name, and of no slice but the one that
            chooses.
        targets: int64 [t], sorted, for metrics of target items.

    Raises:
        ConfigError: If its ``fit`` gave no function, or its scores have a wrong shape or are NaN.
    """
    if not callable(scorer):
        raise ConfigError(
            f"model: fit returned {type(scorer).__name__}, expected a function that gives the "
            "scores of some users"
        )
    shard = split.shard(np.arange(split.n_clients, dtype=np.int64))
    first_stage = settings.first_stage_of(split)

    def scores(rows: IntArray) -> dict[View, Scores]:
        values, expected = np.asarray(scorer(shard.user_ids[rows])), (len(rows), split.n_items)
        if values.shape != expected:
            raise ConfigError(f"model: its scores have shape {values.shape}, expected {expected}")
        if first_stage is None:
            return {"mixed": values}
        order = first_stage.order(shard.user_ids[rows], shard.train.take(rows))
        return {"mixed": reranked(torch.tensor(values), order, first_stage.n)}

    slices = settings.slices_of(split)
    if slices is not None and metrics is not None:
        slices = replace(slices, names=(settings.choose_on,) if settings.choose_on else ())
    measured = settings.parsed() if metrics is None else metrics
    try:
        return evaluate(shard, scores, measured, settings.block, slices=slices, targets=targets)
    except NumericError as error:
        # A function within ``fit`` is named after its class.
        name = getattr(scorer, "__qualname__", type(scorer).__name__).partition(".")[0]
        raise ConfigError(
            f"model {name}: {error}; look at its divisions, roots and logarithms"
        ) from error
