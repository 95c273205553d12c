"""Run an experiment, once or with several seeds, or continue a run."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, overload

from fedrec.baselines.base import Baseline
from fedrec.config.experiment import Experiment, load_experiment
from fedrec.config.sources import sources_of
from fedrec.errors import ConfigError, FedRecError, RunFolderError
from fedrec.flower.launch import launch
from fedrec.plugins import expand_path, shown
from fedrec.runs.baseline import evaluate_scorer, tune
from fedrec.runs.folder import (
    CHECKPOINT,
    CONFIG,
    FINISHED,
    LOCAL,
    ROUNDS,
    SEEDS,
    await_end,
    check_free,
    default_folder,
    discard_unstarted,
    is_run_folder,
)
from fedrec.runs.log import RoundRecord, Seconds, read_checkpoint, rounds_before
from fedrec.runs.open_run import OpenRun
from fedrec.runs.prepare import Source, open_experiment, prepare_run
from fedrec.runs.progress import OnLine, OnRound, Progress
from fedrec.runs.reader import RunFolder
from fedrec.runs.recorder import Observer, Recorder
from fedrec.runs.result import RunResult, RunResults
from fedrec.runs.tally import Tally
from fedrec.storage.files import RESTORE, reading, write_json, write_text

LOG = logging.getLogger("fedrec")
# Makes what shows a run.
Display: TypeAlias = Callable[[Experiment], Progress]


@overload
def run(
    experiment: Source,
    *,
    seed: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
    on_round: OnRound | None = None,
    say: OnLine | None = None,
) -> RunResult: ...


@overload
def run(
    experiment: Source,
    *,
    seed: Sequence[int],
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
    on_round: OnRound | None = None,
    say: OnLine | None = None,
) -> RunResults: ...


def run(
    experiment: Source,
    *,
    seed: int | Sequence[int] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
    on_round: OnRound | None = None,
    say: OnLine | None = None,
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
    given: Any = seed
    several = isinstance(given, Iterable) and not isinstance(given, str)
    seeds = list(given) if several else [given] * (given is not None)
    folders = planned(experiment, (), seeds, out, several)
    level = logging.INFO if progress else logging.WARNING
    display = partial(Progress, level=level, on_round=on_round, on_line=say)
    results = RunResults(run_all(folders, overwrite, display))
    return results if several else results[0]


def planned(
    source: Source, sets: Sequence[str], seeds: Sequence[int], out: str | Path | None, several: bool
) -> dict[Path, Experiment]:
    """Return the experiments to run by run folder; several are ``seed<N>`` below ``out``.

    Raises:
        ConfigError: If the experiment is not valid, or several seeds are none or one twice.
    """
    overrides = [[*sets, f"seed={seed}"] for seed in seeds] or [list(sets)]
    experiments = [load_experiment(source, each) for each in overrides]
    if several and len({each.seed for each in experiments}) != len(seeds):
        raise ConfigError(f"seed: got {list(seeds)}, expected one or more, each once")
    default = default_folder(source, sets, None if several else experiments[0].seed)
    base = default if out is None else expand_path(out)
    return {base / f"seed{each.seed}" if several else base: each for each in experiments}


def run_all(
    folders: Mapping[Path, Experiment], overwrite: bool, display: Display
) -> Iterator[RunResult]:
    """Run experiments, given by run folder, one after the other, and yield each that has ended.

    Several differ in the seed; the folder of their folders tells `resume_all` the seeds.
    """
    seeds, base = [each.seed for each in folders.values()], next(iter(folders)).parent
    if len(seeds) > 1 and is_run_folder(base):
        raise RunFolderError(
            f"{base}: holds a run; several seeds need a folder of their own, choose another --out"
        )
    for folder in folders:  # all, before the first run starts
        check_free(folder, overwrite)
    for folder, experiment in folders.items():
        yield _run(experiment, folder, overwrite, display, seeds)


def _run(
    experiment: Experiment, out: Path, overwrite: bool, display: Display, seeds: Sequence[int]
) -> RunResult:
    with display(experiment) as progress:
        LOG.info(f"{out}: seed {experiment.seed}")
        run = prepare_run(experiment, out, overwrite=overwrite, report=progress.encode)
        if len(seeds) > 1:
            write_json(run.folder.parent / SEEDS, {"seeds": seeds})
        try:
            _carry_out(run, progress.show)
        except BaseException:
            discard_unstarted(run.folder)
            raise
    return RunResult(run.folder)


def resume(
    folder: str | Path,
    *,
    sets: Sequence[str] = (),
    accept_other_code: bool = False,
    progress: bool = False,
    on_round: OnRound | None = None,
    say: OnLine | None = None,
) -> RunResult:
    """Continue a run that was interrupted or killed, or extend one that is complete.

    The rounds are those of a run that was never stopped: same digest, same run log but for times,
    same best round. At most the round in flight is done again. A run that is complete is left as
    it is, unless ``rounds.count`` or ``rounds.patience`` is raised; then its last round keeps its
    evaluation, also where it would not be due.

    Args:
        folder: The run folder.
        sets: Overrides as ``dotted.key=value``, of ``engine``, ``rounds.count`` and
            ``rounds.patience``.
        accept_other_code: Go on though the code of fedrec has changed.
        progress: See `run`.
        on_round: Is called with the record of each round that is run now.
        say: Is called with a line about what is being done.

    Returns:
        The run.

    Raises:
        FedRecError: One line that says what is wrong and what to do, before any work is done.
    """
    level = logging.INFO if progress else logging.WARNING
    display = partial(Progress, level=level, on_round=on_round, on_line=say)
    return _resume(expand_path(folder).absolute(), sets, accept_other_code, display)


def resume_all(
    folder: Path, sets: Sequence[str], accept_other_code: bool, display: Display
) -> Iterator[RunResult]:
    """Continue a run, or each run of several seeds, and yield those that have ended.

    Of several seeds, those that are complete are left as they are, and those that were not
    begun are run. For the arguments see `resume` and `run_all`.
    """
    if is_run_folder(folder) or not (folder / SEEDS).exists():
        yield _resume(folder.absolute(), sets, accept_other_code, display)
        return
    with reading(folder / SEEDS):
        seeds = [int(seed) for seed in json.loads((folder / SEEDS).read_bytes())["seeds"]]
    begun = [seed for seed in seeds if (folder / f"seed{seed}" / CONFIG).exists()]
    if not begun:
        raise RunFolderError(f"{folder}: none of its runs has begun; run it again")
    for seed in seeds:
        path = folder / f"seed{seed}"
        if seed in begun:
            yield _resume(path.absolute(), sets, accept_other_code, display)
        else:
            first = RunResult(folder / f"seed{begun[0]}").experiment
            experiment = load_experiment(first, [*sets, f"seed={seed}"])
            yield _run(experiment, path, True, display, seeds)


def _resume(
    path: Path, sets: Sequence[str], accept_other_code: bool, display: Display
) -> RunResult:
    stored, config, log = RunFolder(path), path / CONFIG, path / ROUNDS
    if not config.exists():
        raise RunFolderError(
            f"{config}: is missing; the run stopped before it began, so there is nothing to "
            "continue; run it again with --overwrite"
        )
    experiment = load_experiment(config, sets)
    where = f"{config} with --set" if sets else str(config)
    with display(experiment) as progress:
        opened = _prepare_resume(stored, experiment, where, accept_other_code, progress)
        if opened is not None:
            before = config.read_text(encoding="utf-8"), log.read_bytes()
            opened.write_config()
            try:
                _carry_out(opened, progress.show)
            except FedRecError:
                if log.read_bytes() == before[1]:  # a run that may not continue is left as it was
                    write_text(config, before[0])
                raise
    return RunResult(path)


def _carry_out(run: OpenRun, observer: Observer) -> None:
    """Run to the end, from the beginning or from the checkpoint that lies in the run folder."""
    engine = run.engine
    if engine is None:
        _run_baseline(run, observer)
        return
    run_config = {
        "run": run.id,
        "experiment": str(run.folder / CONFIG),
        "out": str(run.folder),
        "split": str(run.prepared),
        "features": str(run.features or ""),
        "engine": engine.name,
        "workers": str(engine.workers),
    }
    node_config = {
        "run-dir": str(run.folder),
        "data": str(run.prepared),
        "features": str(run.features or ""),
        "device": engine.device,
    }
    sources = sources_of(run.experiment)
    launch(engine, run_config, observer, node_config=node_config, sources=sources)


def _run_baseline(run: OpenRun, observer: Observer) -> None:
    """Fit a baseline once and let every user rank once.

    ``config.yaml`` of the run folder gets the settings that validation chose.
    """
    began = time.perf_counter()
    model, tuning = tune(run.experiment, run.split, run.catalogue)
    if tuning is not None:
        run = replace(run, experiment=run.experiment.model_copy(update={"model": model}))
        run.write_config()
    engine = {"name": "centralised", "workers": 1, "nodes": 1}
    with closing(Recorder(run, engine, observer)) as recorder:
        scorer = model.fit(run.split, run.experiment.seed, run.catalogue)
        fitted = time.perf_counter()
        settings = run.experiment.evaluate
        evaluation = evaluate_scorer(scorer, run.split, settings, targets=run.targets)
        seconds = Seconds(train=fitted - began, evaluate=time.perf_counter() - fitted)
        record = RoundRecord(round=0, clients=run.split.n_clients, seconds=seconds)
        recorder.record(record, evaluation, {})
        recorder.finish("completed", {}, tuning)


def _prepare_resume(
    run: RunFolder, experiment: Experiment, where: str, accept_other_code: bool, progress: Progress
) -> OpenRun | None:
    """Return a run that goes on as what it was; None if there is nothing left to do."""
    folder = run.path
    await_end(folder)
    if run.result.get("status") == "diverged":
        raise RunFolderError(
            f"{folder}: its training diverged, and a run cannot continue with other rates; start "
            "it again with lower ones and --overwrite"
        )
    checkpoint = read_checkpoint(folder)
    if checkpoint is None:
        return _from_the_beginning(run, experiment, progress)
    origin, last = checkpoint.origin, checkpoint.record.round
    origin.check_config(where, experiment)
    if key := _reached(run, last, experiment):
        LOG.info(
            f"{folder}: is complete, {last} rounds; to extend it, add --set {key}=N (now "
            f"{shown(getattr(experiment.rounds, key.removeprefix('rounds.')))})"
        )
        return None
    opened = open_experiment(experiment, folder, origin.nodes, folder, progress.encode)
    origin.check(opened, accept_other_code)
    rounds, _ = rounds_before(folder / ROUNDS, last, checkpoint.log)
    progress.follow([*rounds, checkpoint.record])
    best = Tally(experiment.evaluate.chooser, rounds=rounds).best
    if best is not None:  # it must have left everything behind
        run.model(best.round, last)
        run.per_user()
        if checkpoint.node_states and not run.local("client", best.round):
            raise RunFolderError(
                f"{folder / LOCAL}: the private parameters of round {best.round}, the best so far, "
                f"are missing; {RESTORE}"
            )
    _ = run.split  # compares its checksum
    LOG.info(f"{folder}: continues after round {last} of {experiment.rounds.count}")
    return opened


def _from_the_beginning(
    run: RunFolder, experiment: Experiment, progress: Progress
) -> OpenRun | None:
    """Start the run of a folder without checkpoint again, if it took no round."""
    if isinstance(experiment.model, Baseline):
        if run.result.get("status") in FINISHED and run.rounds():
            LOG.info(f"{run.path}: is complete; a baseline is fitted once")
            return None
    elif run.rounds():
        raise RunFolderError(
            f"{run.path / CHECKPOINT}: is missing, so the run cannot continue; {RESTORE}"
        )
    LOG.info(f"{run.path}: was stopped before its first checkpoint; starts at the beginning")
    return prepare_run(experiment, run.path, overwrite=True, report=progress.encode)


def _reached(run: RunFolder, last: int, experiment: Experiment) -> str:
    """Return the setting that has ended a run in which all was done that it asks for; else ""."""
    rounds, result = experiment.rounds, run.result
    if rounds.count < last:
        raise ConfigError(
            f"rounds.count: {rounds.count} is less than the {last} rounds that were run already; "
            "expected that many or more"
        )
    if result.get("status") not in FINISHED or result.get("rounds") != last:
        return ""
    if rounds.count == last:
        return "rounds.count"
    metric = experiment.evaluate.chooser
    popularity = result.get("reference", {}).get("popularity", {}).get("valid", {})
    tally = Tally(metric, lambda: popularity.get(metric), run.rounds())
    return "rounds.patience" if tally.stale >= (rounds.patience or math.inf) else ""
