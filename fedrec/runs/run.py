"""Run an experiment, once or with several seeds, or continue a run."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from fedrec.baselines.base import Baseline
from fedrec.config.experiment import Experiment, load_experiment
from fedrec.config.sources import source_hashes
from fedrec.config.yaml import flatten
from fedrec.data.prepare import version_of
from fedrec.errors import ConfigError, FedRecError, RunFolderError
from fedrec.flower.launch import launch
from fedrec.flower.packages import code_hash
from fedrec.plugins import expand_path, shown
from fedrec.runs.baseline import evaluate_scorer, tune
from fedrec.runs.folder import (
    CHECKPOINT,
    CONFIG,
    FINISHED,
    RESULT,
    ROUNDS,
    SOURCE,
    SPLIT,
    await_end,
    check_free,
    default_folder,
    discard_unstarted,
    write_result,
)
from fedrec.runs.log import Checkpoint, RoundRecord, Seconds, read_checkpoint, rounds_before
from fedrec.runs.prepare import OpenRun, Say, Source, open_experiment, prepare_run
from fedrec.runs.progress import Progress
from fedrec.runs.reader import RunFolder
from fedrec.runs.recorder import Observer, Recorder
from fedrec.runs.result import RunResult, RunResults
from fedrec.runs.tally import Tally
from fedrec.storage.files import RESTORE, write_text

__all__ = ["resume", "run"]

FREE = ("engine.", "rounds.count", "rounds.patience", "data.path")
"""What may change: none of it changes a bit of a round. The data is compared by its content."""
NAMED = 4
"""Differences that a message names."""
DIFFERENT = {
    "data": "the data is not what it was (version {now:.8}, was {before:.8}); bring the old data "
    "back, or start a new run with another --out",
    "executor": "train.backend means '{now}' in this installation, where the run began it meant "
    "'{before}', which gives other bits; continue it there, or start a new run with another --out",
    "code": "the code of fedrec is not what it was (hash {now:.8}, was {before:.8}); go back to "
    "that version, or add --accept-other-code to continue with this one",
}
"""What is said of a run folder where something else is not what it was."""
OnRound = Callable[[RoundRecord], None]


@overload
def run(
    experiment: Source,
    *,
    seed: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
    on_round: OnRound | None = None,
    say: Say | None = None,
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
    say: Say | None = None,
) -> RunResults: ...


def run(
    experiment: Source,
    *,
    seed: int | Sequence[int] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
    on_round: OnRound | None = None,
    say: Say | None = None,
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
        if not seed or len(set(seed)) < len(seed):
            raise ConfigError(f"seed: got {list(seed)}, expected one or more, each once")
        base = expand_path(out) if out is not None else default_folder(experiment)
        seeded = [(base / f"seed{s}", load_experiment(experiment, {"seed": s})) for s in seed]
        for folder, _ in seeded:  # all, before the first run starts
            check_free(folder, overwrite)
        return RunResults(
            run(e, out=f, overwrite=overwrite, progress=progress, on_round=on_round, say=say)
            for f, e in seeded
        )
    if seed is not None or not isinstance(experiment, Experiment):
        chosen = load_experiment(experiment, {} if seed is None else {"seed": seed})
    else:
        chosen = experiment
    folder = expand_path(out) if out is not None else default_folder(experiment, seed=chosen.seed)
    with Progress(chosen, not progress, on_round, say) as display:
        opened = prepare_run(chosen, folder, overwrite=overwrite, say=display.say)
        try:
            _carry_out(opened, display.show)
        except BaseException:
            discard_unstarted(opened.folder)
            raise
    return RunResult(opened.folder)


def resume(
    folder: str | Path,
    *,
    sets: Sequence[str] = (),
    accept_other_code: bool = False,
    progress: bool = False,
    on_round: OnRound | None = None,
    say: Say | None = None,
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
    path = Path(folder).absolute()
    config, log = RunFolder(path).path / CONFIG, path / ROUNDS
    if not config.exists():
        raise RunFolderError(
            f"{config}: is missing; the run stopped before it began, so there is nothing to "
            "continue; run it again with --overwrite"
        )
    experiment = load_experiment(config, sets)
    with Progress(experiment, not progress, on_round, say) as display:
        where = f"{config} with --set" if sets else str(config)
        opened = _prepare_resume(path, experiment, where, accept_other_code, display.say)
        if opened is not None:
            before = config.read_text(encoding="utf-8"), log.read_bytes()
            opened.write_config()
            try:
                _carry_out(opened, display.show)
            except FedRecError:
                if log.read_bytes() == before[1]:  # a run that may not continue is left as it was
                    write_text(config, before[0])
                raise
    return RunResult(path)


def _carry_out(run: OpenRun, on_round: OnRound) -> None:
    """Run to the end, from the beginning or from the checkpoint that lies in the run folder."""

    def observe(record: Mapping[str, Any]) -> None:
        on_round(RoundRecord.model_validate(record))

    engine = run.engine
    if engine is None:
        _run_baseline(run, observe)
        return
    run_config = {
        "run": run.id,
        "experiment": str(run.folder / CONFIG),
        "out": str(run.folder),
        "split": str(run.prepared),
        "engine": engine.name,
        "workers": str(engine.workers),
    }
    try:
        launch(engine, run_config, observe)
    except KeyboardInterrupt:
        folder = RunFolder(run.folder)
        if engine.name == "flower" and folder.rounds() and not (run.folder / RESULT).exists():
            # The server app ran in another process, which was ended.
            facts = engine.model_dump(include={"name", "workers", "nodes"})
            write_result(run.folder, {**folder.result(), "engine": facts})
        raise


def _run_baseline(run: OpenRun, observer: Observer) -> None:
    """Fit a baseline once and let every user rank once.

    ``config.yaml`` of the run folder gets the settings that validation chose.
    """
    began = time.perf_counter()
    model, tuning = tune(run.experiment, run.split)
    if tuning is not None:
        run = replace(run, experiment=run.experiment.model_copy(update={"model": model}))
        run.write_config()
    engine = {"name": "centralised", "workers": 1, "nodes": 1}
    with closing(Recorder(run, engine, observer)) as recorder:
        scorer = model.fit(run.split, run.experiment.seed)
        fitted = time.perf_counter()
        evaluate = run.experiment.evaluate
        evaluation = evaluate_scorer(scorer, run.split, evaluate.parsed(), evaluate.block)
        seconds = Seconds(train=fitted - began, evaluate=time.perf_counter() - fitted)
        record = RoundRecord(round=0, clients=run.split.n_clients, seconds=seconds)
        recorder.record(record, evaluation, {})
        recorder.finish("completed", {}, tuning)


def _prepare_resume(
    folder: Path, experiment: Experiment, where: str, accept_other_code: bool, say: Say
) -> OpenRun | None:
    """Return a run that goes on as what it was; None if there is nothing left to do."""
    run = RunFolder(folder)
    await_end(folder)
    if run.result().get("status") == "diverged":
        raise RunFolderError(
            f"{folder}: its training diverged, and a run cannot continue with other rates; start "
            "it again with lower ones and --overwrite"
        )
    checkpoint = read_checkpoint(folder)
    if checkpoint is None:
        return _from_the_beginning(run, experiment, say)
    origin, last = checkpoint.origin, checkpoint.record.round
    _check_config(where, origin.config, experiment)
    if _is_complete(run, last, experiment):
        say(
            f"{folder}: is complete, {last} rounds; to extend it, add "
            f"--set rounds.count=N (now {experiment.rounds.count}) or rounds.patience"
        )
        return None
    opened = open_experiment(experiment, folder, say, origin.nodes, folder / SPLIT)
    _check_origin(opened, checkpoint, accept_other_code)
    rounds, _ = rounds_before(folder / ROUNDS, last, checkpoint.log)
    best = Tally(experiment.evaluate.metrics[0], rounds=rounds).best
    if best is not None:
        run.check_best(best.round, last, private=bool(checkpoint.node_states))
    run.split()
    say(f"{folder}: continues after round {last} of {experiment.rounds.count}")
    return opened


def _from_the_beginning(run: RunFolder, experiment: Experiment, say: Say) -> OpenRun | None:
    """Start the run of a folder without checkpoint again, if it took no round."""
    if isinstance(experiment.model, Baseline):
        if run.result().get("status") in FINISHED and run.rounds():
            say(f"{run.path}: is complete; a baseline is fitted once")
            return None
    elif run.rounds():
        raise RunFolderError(
            f"{run.path / CHECKPOINT}: is missing, so the run cannot continue; {RESTORE}"
        )
    say(f"{run.path}: was stopped before its first checkpoint; starts at the beginning")
    return prepare_run(experiment, run.path, overwrite=True, say=say)


def _check_config(where: str, before: Mapping[str, Any], experiment: Experiment) -> None:
    was, now = flatten(before), flatten(experiment.model_dump(mode="json"))
    keys = [
        key
        for key in dict.fromkeys([*was, *now])
        if was.get(key) != now.get(key) and not key.startswith(FREE)
    ]
    # Another plug-in has other settings: its name is enough.
    others = tuple(key.removesuffix("name") for key in keys if key.endswith(".name"))
    changed = [
        f"{key} is {shown(now.get(key))}, was {shown(was.get(key))}"
        for key in keys
        if key.endswith(".name") or not key.startswith(others)
    ]
    if changed:
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        raise ConfigError(
            f"{where}: is not what was run: {'; '.join(changed[:NAMED])}{more}; a run goes on only "
            "with another engine, rounds.count or rounds.patience: set it back, or start a new run "
            "with another --out"
        )


def _check_origin(run: OpenRun, checkpoint: Checkpoint, accept_other_code: bool) -> None:
    path, origin, engine = run.folder, checkpoint.origin, run.engine
    if engine is not None and engine.nodes != origin.nodes:
        raise ConfigError(
            f"engine.nodes: {engine.nodes}, but the local state lies on {origin.nodes} nodes; "
            f"write {origin.nodes} or 'auto'"
        )
    now = {"data": version_of(run.prepared), "executor": run.executor, "code": code_hash()}
    sources = source_hashes(run.experiment)
    for name in sorted({*origin.sources, *sources}):
        if origin.sources.get(name) != sources.get(name) and not accept_other_code:
            what = "is not what it was when the run began" if name in sources else "is missing"
            raise RunFolderError(
                f"{name}: {what}; the source of then is {path / SOURCE / name}: put it back, start "
                "a new run with another --out, or add --accept-other-code to continue with the new "
                "source"
            )
    for fact, said in DIFFERENT.items():
        before = getattr(origin, fact)
        if now[fact] != before and not (fact == "code" and accept_other_code):
            raise RunFolderError(f"{path}: {said.format(now=now[fact], before=before)}")


def _is_complete(run: RunFolder, last: int, experiment: Experiment) -> bool:
    """Return whether all has been done that the experiment asks for."""
    rounds, result = experiment.rounds, run.result()
    if rounds.count < last:
        raise ConfigError(
            f"rounds.count: {rounds.count} is less than the {last} rounds that were run already; "
            "expected that many or more"
        )
    if result.get("status") not in FINISHED or result.get("rounds") != last:
        return False
    metric = experiment.evaluate.metrics[0]
    popularity = result.get("reference", {}).get("popularity", {}).get("valid", {})
    tally = Tally(metric, lambda: popularity.get(metric), run.rounds())
    return rounds.count == last or (rounds.patience is not None and tally.stale >= rounds.patience)
