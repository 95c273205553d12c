"""Run an experiment: check it, prepare the data, start the engine."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from fedrec.baselines.base import Baseline
from fedrec.config.experiment import Experiment, load_experiment
from fedrec.config.sources import sources_of, with_importable_plugins
from fedrec.data.negatives import pool_excluded
from fedrec.data.prepare import open_split, prepare
from fedrec.errors import ConfigError, DataError, FedRecError, MissingExtra
from fedrec.evaluation.evaluate import check_cutoffs
from fedrec.evaluation.ranking import check_candidates
from fedrec.flower.launch import launch, resolve_engine
from fedrec.flower.packages import check_packages
from fedrec.plugins import expand_path
from fedrec.runs.baseline import run_baseline
from fedrec.runs.effects import settings_without_effect
from fedrec.runs.engine_choice import choose_engine, describe_engine
from fedrec.runs.folder import (
    CONFIG,
    RESULT,
    ROUNDS,
    SOURCE,
    SPLIT,
    check_free,
    create,
    discard_unstarted,
    write_config,
    write_result,
)
from fedrec.runs.log import RoundRecord
from fedrec.runs.progress import Progress
from fedrec.runs.reader import RunFolder
from fedrec.runs.result import RunResult, RunResults
from fedrec.runs.split_file import write_split
from fedrec.storage.files import write_text
from fedrec.training.draws import check_order
from fedrec.training.executors.numba.build import build, is_built
from fedrec.types import Split

T = TypeVar("T")

__all__ = [
    "Prepared",
    "carry_out",
    "check_parts",
    "find_config",
    "prepare_run",
    "run",
]


@dataclass(frozen=True, slots=True)
class Prepared:
    """An experiment that is ready to start.

    Args:
        experiment: What is run.
        out: The run folder, made, with ``config.yaml``.
        split: The folder of the prepared data.
        config_before: The content of ``config.yaml`` before a run that continues changed it.
    """

    experiment: Experiment
    out: Path
    split: Path
    config_before: str | None = None


@overload
def run(
    experiment: Experiment | Mapping[str, Any] | str | Path,
    *,
    seed: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
    on_round: Callable[[RoundRecord], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> RunResult: ...


@overload
def run(
    experiment: Experiment | Mapping[str, Any] | str | Path,
    *,
    seed: Sequence[int],
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
    on_round: Callable[[RoundRecord], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> RunResults: ...


def run(
    experiment: Experiment | Mapping[str, Any] | str | Path,
    *,
    seed: int | Sequence[int] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
    on_round: Callable[[RoundRecord], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> RunResult | RunResults:
    """Run an experiment to its end, once or with several seeds.

    Args:
        experiment: The experiment, its sections as a mapping, or the path of its YAML file.
        seed: The seed in place of the experiment's, or several, for one run each.
        out: The run folder; default ``runs/<name>-seed<N>`` in the working folder. With several
            seeds, the folder of the run folders ``seed<N>``.
        overwrite: Replace an existing run folder.
        progress: Show the rounds on stderr, as the command line does; in a notebook as a bar.
        on_round: Is called with the record of each round.
        say: Is called with a line about what is being done.

    Returns:
        The run; a list of runs where several seeds are given.

    Raises:
        FedRecError: One line that says what is wrong and what to do, before any work is done.
    """
    if isinstance(seed, Sequence):
        return _run_seeds(experiment, seed, out, overwrite, on_round, say, progress)
    if seed is not None:
        experiment, out = _seeded(experiment, seed), out or _default_out(experiment, seed)
    chosen = experiment if isinstance(experiment, Experiment) else load_experiment(experiment)
    folder = expand_path(out) if out is not None else _default_out(experiment, chosen.seed)
    with Progress(chosen, quiet=not progress) as display:
        prepared = prepare_run(chosen, folder, overwrite=overwrite, say=_both(say, display.say))
        try:
            carry_out(prepared, _both(on_round, display.show))
        except BaseException:
            discard_unstarted(prepared.out)
            raise
    return RunResult(prepared.out)


def _both(first: Callable[[T], None] | None, second: Callable[[T], None]) -> Callable[[T], None]:
    def call(value: T) -> None:
        if first is not None:
            first(value)
        second(value)

    return call


def _run_seeds(
    experiment: Experiment | Mapping[str, Any] | str | Path,
    seeds: Sequence[int],
    out: str | Path | None,
    overwrite: bool,
    on_round: Callable[[RoundRecord], None] | None,
    say: Callable[[str], None] | None,
    progress: bool,
) -> RunResults:
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seed: got {list(seeds)}, expected one or more, each once")
    base = expand_path(out) if out is not None else _default_out(experiment)
    folders = [base / f"seed{seed}" for seed in seeds]
    experiments = [_seeded(experiment, seed) for seed in seeds]
    for folder in folders:  # all, before the first run starts
        check_free(folder, overwrite)
    return RunResults(
        run(each, out=folder, overwrite=overwrite, progress=progress, on_round=on_round, say=say)
        for each, folder in zip(experiments, folders, strict=True)
    )


def _seeded(experiment: Experiment | Mapping[str, Any] | str | Path, seed: int) -> Experiment:
    if isinstance(experiment, Experiment):
        # Through validation, so that a seed out of range is refused.
        values = {name: getattr(experiment, name) for name in type(experiment).model_fields}
        return load_experiment({**values, "seed": seed})
    return load_experiment(experiment, [f"seed={seed}"])


def _default_out(
    source: Experiment | Mapping[str, Any] | str | Path, seed: int | None = None
) -> Path:
    stem = Path(source).stem if isinstance(source, str | Path) else "experiment"
    return Path("runs") / (stem if seed is None else f"{stem}-seed{seed}")


def carry_out(prepared: Prepared, on_round: Callable[[RoundRecord], None] | None = None) -> None:
    """Run what is prepared to its end, from its beginning or from its last checkpoint.

    Args:
        prepared: From `prepare_run`, or `fedrec.runs.resume.prepare_resume`.
        on_round: Is called with the record of each round.

    Raises:
        FedRecError: What is wrong, and what to do.
    """

    def observe(record: Mapping[str, Any]) -> None:
        if on_round is not None:
            on_round(RoundRecord.model_validate(record))

    log = prepared.out / ROUNDS
    before = log.read_bytes()
    try:
        if isinstance(prepared.experiment.model, Baseline):
            split = open_split(prepared.split)
            run_baseline(prepared.out, prepared.experiment, split, observe)
        else:
            _run_federated(prepared, observe)
    except FedRecError:
        if prepared.config_before is not None and log.read_bytes() == before:
            # A run that may not continue is left as it was.
            write_text(prepared.out / CONFIG, prepared.config_before)
        raise


def prepare_run(
    source: Experiment | Mapping[str, Any] | str | Path,
    out: Path | None,
    *,
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
) -> Prepared:
    """Check everything that can be checked, prepare the data and make the run folder.

    Args:
        source: The experiment, or the path of its YAML file.
        out: The run folder, or None for the default.
        overwrite: Replace an existing run folder.
        say: Is called with a line about what is being done.

    Raises:
        FedRecError: What is wrong, and what to do.
    """
    speak = say or (lambda _: None)
    experiment = source if isinstance(source, Experiment) else load_experiment(source)
    experiment = with_importable_plugins(experiment)
    check_parts(experiment)
    folder = (out or _default_out(source, experiment.seed)).absolute()
    check_free(folder, overwrite)
    split_folder = prepare(experiment.data, experiment.clients)
    split = open_split(split_folder)
    _check_sizes(experiment, split)
    speak(
        f"{split.name}: {split.n_users} users, {split.n_items} items, "
        f"{len(split.train.values)} train interactions, {split.n_clients} clients"
    )
    for line in settings_without_effect(experiment, split):
        speak(f"warning: {line}")
    if not isinstance(experiment.model, Baseline) and _must_compile(experiment):
        speak("compiling the training kernel, once on a machine (about half a minute)")
        build()
    if not isinstance(experiment.model, Baseline):
        speak(describe_engine(experiment, split))
    create(folder, overwrite)
    kept = experiment.model_copy(update={"data": experiment.data.located()})
    write_config(folder, kept.to_yaml())
    for name, text in sources_of(experiment).items():
        (folder / SOURCE / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / SOURCE / name, text)
    write_split(folder / SPLIT, split)
    return Prepared(experiment, folder, split_folder)


def check_parts(experiment: Experiment) -> None:
    """See whether what an experiment needs of this installation is there.

    Raises:
        FedRecError: What is missing, and how to get it.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingExtra("pyarrow, for running experiments,", "sim")
    if not isinstance(experiment.model, Baseline):
        experiment.client_task().executor()
        resolve_engine(experiment.engine)
        check_packages()


def find_config(config: Path) -> Path:
    """The file of an experiment: as given, or of that name among the shipped ones.

    Args:
        config: Such as ``experiments/ml-100k/mf.yaml``; found from any working folder.

    Returns:
        The path as given if nothing is found, so that reading it tells what is missing.
    """
    if config.exists() or config.is_absolute():
        return config
    beside = Path(__file__).resolve().parent.parent / config
    if config.parts[:1] == ("experiments",) and beside.exists():
        return beside
    for file in metadata.files("fedrec") or []:
        if file.as_posix().endswith(f"share/fedrec/{config.as_posix()}"):
            return Path(str(file.locate()))
    return config


def _must_compile(experiment: Experiment) -> bool:
    compiled = experiment.client_task().executor() == "numba"
    return compiled and not is_built()


def _check_sizes(experiment: Experiment, split: Split) -> None:
    if isinstance(experiment.model, Baseline) and experiment.data.protocol == "legacy":
        raise ConfigError("data.protocol: the baselines are measured on 'clean' only")
    if not isinstance(experiment.model, Baseline):
        check_order(experiment.model, split.timestamps, split.name)
    check_cutoffs(experiment.evaluate.parsed(), split.n_items)
    experiment.rounds.clients_of(split.n_clients)
    nodes = experiment.engine.nodes
    if isinstance(nodes, int) and nodes > split.n_clients:
        raise ConfigError(
            f"engine.nodes: {nodes} nodes are more than the {split.n_clients} clients; lower it or "
            "write 'auto'"
        )
    full = split.train.lengths
    if experiment.data.protocol == "legacy":
        known = pool_excluded(split, "legacy")
        check_candidates(known, split.n_items)
        full = known.lengths
    if (full >= split.n_items).any():
        user = split.user_ids[int(np.argmax(full))]
        raise DataError(
            f"user '{user}' knows all {split.n_items} items, so no negative can be drawn for it; "
            "raise data.threshold or leave the user out"
        )


def _run_federated(prepared: Prepared, observer: Callable[[Mapping[str, Any]], None]) -> None:
    split = open_split(prepared.split)
    engine, _ = choose_engine(prepared.experiment, split)
    resolved = resolve_engine(engine)
    nodes = min(resolved.nodes, split.n_clients)
    workers = min(resolved.workers, nodes)
    try:
        launch(
            engine.model_copy(update={"nodes": nodes, "workers": workers}),
            {
                "experiment": str(prepared.out / CONFIG),
                "out": str(prepared.out),
                "split": str(prepared.split),
                "engine": resolved.name,
                "workers": str(workers),
            },
            observer,
        )
    except KeyboardInterrupt:
        folder, result = RunFolder(prepared.out), prepared.out / RESULT
        if resolved.name == "flower" and folder.rounds() and not result.exists():
            # The server app ran in another process, which was ended.
            told = {"name": "flower", "workers": workers, "nodes": nodes}
            write_result(prepared.out, {**folder.result(), "engine": told})
        raise
