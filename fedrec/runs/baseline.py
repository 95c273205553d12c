"""Run a centralised baseline: choose its settings on validation, fit it, let every user rank."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from fedrec.baselines.base import Baseline, TunableBaseline
from fedrec.config.experiment import Experiment
from fedrec.plugins import name_of
from fedrec.runs.effects import settings_without_effect
from fedrec.runs.folder import write_config
from fedrec.runs.log import RoundRecord, Seconds
from fedrec.runs.recorder import Recorder
from fedrec.runs.reference import evaluate_scorer
from fedrec.types import Split

__all__ = ["run_baseline", "tune"]

LOG = logging.getLogger("fedrec")


def run_baseline(
    out: Path,
    experiment: Experiment,
    split: Split,
    observer: Callable[[Mapping[str, Any]], None],
) -> None:
    """Fit a baseline once and let every user rank once.

    ``config.yaml`` of the run folder gets the settings that validation chose.

    Args:
        out: The run folder, made already.
        experiment: What is run; its model is a baseline.
        split: The data.
        observer: Is called with the record of the only round.
    """
    assert isinstance(experiment.model, Baseline)
    began = time.perf_counter()
    model, tuning = tune(experiment, split)
    if tuning is not None:
        experiment = experiment.model_copy(update={"model": model})
        kept = experiment.model_copy(update={"data": experiment.data.located()})
        write_config(out, kept.to_yaml())
    engine = {"name": "centralised", "workers": 1, "nodes": 1}
    warnings = settings_without_effect(experiment, split)
    recorder = Recorder(out, experiment, split, engine, observer, True, warnings)
    recorder.tuning = tuning
    with closing(recorder):
        scorer = model.fit(split, experiment.seed)
        fitted = time.perf_counter()
        evaluation = evaluate_scorer(
            scorer, split, experiment.evaluate.parsed(), experiment.evaluate.block
        )
        seconds = Seconds(train=fitted - began, evaluate=time.perf_counter() - fitted)
        record = RoundRecord(round=0, clients=split.n_clients, seconds=seconds)
        recorder.record(record, evaluation, {})
        recorder.finish("completed", {})


def tune(experiment: Experiment, split: Split) -> tuple[Baseline, dict[str, Any] | None]:
    """Choose the settings of a baseline that are not given, by the first metric on validation.

    Args:
        experiment: Its model is a baseline.
        split: The data.

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
    metric = experiment.evaluate.parsed()[0]
    tried: list[dict[str, Any]] = []
    best, best_score = model, float("-inf")
    for candidate in model.candidates():
        scorer = candidate.fit(split, experiment.seed)
        evaluation = evaluate_scorer(scorer, split, (metric,), experiment.evaluate.block)
        score = evaluation.summarise((metric,), "mixed", "valid")[metric.label]
        tried.append({**candidate.settings(), "valid": score})
        if score > best_score:
            best, best_score = candidate, score
    LOG.info(
        f"{name}: {len(tried)} settings tried on validation, {_text(best.settings())} is best with "
        f"{metric.label} {best_score:.4f}"
    )
    tuned = {"tuned": list(settings), "metric": metric.label, "settings": best.settings()}
    return best, {**tuned, "tried": tried}


def _text(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())
