"""Choose the engine of a run that leaves it open."""

from __future__ import annotations

from importlib.util import find_spec

from fedrec.config.engine import Engine
from fedrec.config.experiment import Experiment
from fedrec.flower.launch import resolve_engine
from fedrec.types import Split

__all__ = ["choose_engine", "describe_engine", "training_seconds"]

ROWS_PER_SECOND = {"numba": 5e6}
"""Training rows of one core in a second, to half an order of magnitude: `numba` makes 3 to 14
million of them, matrix factorisation more than PLGC."""
OTHER_ROWS_PER_SECOND = 4e5
"""The same for executors on torch: 0.25 to 1.1 million."""
START_OF_RAY = 5.0
"""Seconds that Ray takes longer to start than the serial engine (7 and 2 on two cores)."""


def choose_engine(experiment: Experiment, split: Split) -> tuple[Engine, str]:
    """Return the engine section with a name other than ``auto``, and why it was chosen.

    Ray is chosen where its workers save more time than Ray takes to start, by an estimate of the
    training time on one core: the rows of all rounds (positives of the cohort, their negatives,
    local epochs) over `ROWS_PER_SECOND`. Whoever sets ``workers``, ``address`` or
    ``gpus_per_worker`` gets Ray.

    Args:
        experiment: What is run.
        split: Its data.
    """
    engine = experiment.engine
    if engine.name != "auto":
        return engine, "as configured"
    if find_spec("ray") is None:
        return engine.model_copy(update={"name": "serial"}), "Ray is not installed"
    ray = engine.model_copy(update={"name": "ray"})
    parallel = {
        "engine.workers": engine.workers not in ("auto", 1),
        "engine.address": engine.address is not None,
        "engine.gpus_per_worker": engine.gpus_per_worker > 0,
    }
    for key, is_set in parallel.items():
        if is_set:
            return ray, f"{key} is set"
    seconds = training_seconds(experiment, split)
    workers = resolve_engine(ray).workers
    saves = seconds * (1 - 1 / workers) > START_OF_RAY
    about = f"training takes about {seconds:.0f} s on one core, Ray {START_OF_RAY:.0f} s to start"
    return (ray if saves else engine.model_copy(update={"name": "serial"})), about


def describe_engine(experiment: Experiment, split: Split) -> str:
    """Return a line that says on what an experiment runs, and why."""
    engine, reason = choose_engine(experiment, split)
    resolved = resolve_engine(engine)
    workers = min(resolved.workers, split.n_clients)
    processes = "" if workers == 1 else f" with {workers} workers"
    executor = experiment.client_task().executor()
    return f"engine {resolved.name}{processes} ({reason}), executor {executor}"


def training_seconds(experiment: Experiment, split: Split) -> float:
    """Estimate the seconds that all rounds train on one core."""
    train, rounds = experiment.train, experiment.rounds
    share = rounds.clients_of(split.n_clients) / split.n_clients
    rows = len(split.train.values) * share * (1 + train.negatives) * train.local_epochs
    executor = experiment.client_task().executor()
    return rows * rounds.count / ROWS_PER_SECOND.get(executor, OTHER_ROWS_PER_SECOND)
