"""A run that goes on after its last checkpoint, bit for bit as if nothing had stopped it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrec.baselines.base import Baseline
from fedrec.config.experiment import Experiment, load_experiment
from fedrec.config.sources import changed_sources, source_hashes
from fedrec.data.prepare import open_split, prepare, version_of
from fedrec.errors import ConfigError, RunFolderError
from fedrec.flower.launch import resolve_engine
from fedrec.flower.packages import code_hash
from fedrec.plugins.faults import shown
from fedrec.runs.checkpoint import Checkpoint, Origin, read_checkpoint
from fedrec.runs.folder import (
    CHECKPOINT,
    CONFIG,
    FINISHED,
    ROUNDS,
    SOURCE,
    await_end,
    write_config,
)
from fedrec.runs.log import RoundRecord, rounds_before
from fedrec.runs.reader import RunFolder
from fedrec.runs.result import RunResult
from fedrec.runs.run import Prepared, carry_out, check_parts, prepare_run
from fedrec.runs.tally import Tally
from fedrec.storage.files import RESTORE

__all__ = ["experiment_of", "prepare_resume", "resume"]

FREE = ("engine.", "rounds.count", "rounds.patience", "data.path")
"""What may change: none of it changes a bit of a round. The data is compared by its content."""
NAMED = 4
"""Differences that a message names."""


def resume(
    folder: str | Path,
    *,
    sets: Sequence[str] = (),
    accept_other_code: bool = False,
    on_round: Callable[[RoundRecord], None] | None = None,
    say: Callable[[str], None] | None = None,
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
        on_round: Is called with the record of each round that is run now.
        say: Is called with a line about what is being done.

    Returns:
        The run.

    Raises:
        FedRecError: One line that says what is wrong and what to do, before any work is done.
    """
    prepared = prepare_resume(Path(folder), sets, accept_other_code=accept_other_code, say=say)
    if prepared is not None:
        carry_out(prepared, on_round)
    return RunResult(Path(folder).absolute())


def experiment_of(folder: Path, sets: Sequence[str] = ()) -> Experiment:
    """What the run in a folder is to go on with.

    Args:
        folder: The run folder.
        sets: See `resume`.

    Raises:
        ConfigError: If it is no valid experiment.
        RunFolderError: If it is no run folder, or holds no experiment yet.
    """
    config = RunFolder(folder).path / CONFIG
    if not config.exists():
        raise RunFolderError(
            f"{config}: is missing; the run stopped before it began, so there is nothing to "
            "continue; run it again with --overwrite"
        )
    return load_experiment(config, sets)


def prepare_resume(
    folder: Path,
    sets: Sequence[str] = (),
    *,
    accept_other_code: bool = False,
    say: Callable[[str], None] | None = None,
) -> Prepared | None:
    """Check that a run can go on as what it was, and put its folder in order.

    Args:
        folder: The run folder.
        sets: See `resume`.
        accept_other_code: See `resume`.
        say: Is called with a line about what is being done.

    Returns:
        What `fedrec.runs.run.carry_out` takes; None if there is nothing left to do.

    Raises:
        ConfigError: If the experiment is not what was run.
        RunFolderError: If it is no run folder, its run is under way, or data or code differ.
    """
    speak = say or (lambda _: None)
    experiment, run = experiment_of(folder, sets), RunFolder(folder.absolute())
    await_end(run.path)
    if run.result().get("status") == "diverged":
        raise RunFolderError(
            f"{folder}: its training diverged, and a run cannot continue with other rates; start "
            "it again with lower ones and --overwrite"
        )
    checkpoint = read_checkpoint(run.path)
    if checkpoint is None:
        return _from_the_beginning(run, experiment, speak)
    origin = checkpoint.origin
    _check_config(run.path, origin, experiment, sets)
    if _is_complete(run, checkpoint, experiment):
        speak(
            f"{folder}: is complete, {checkpoint.record.round} rounds; to extend it, add "
            f"--set rounds.count=N (now {experiment.rounds.count}) or rounds.patience"
        )
        return None
    check_parts(experiment)
    split_folder = prepare(experiment.data, experiment.clients)
    _check_origin(run.path, origin, experiment, split_folder, accept_other_code)
    nodes = _nodes(origin, experiment, split_folder)
    _check_kept(run, checkpoint, experiment, open_split(split_folder).n_clients)
    before = (run.path / CONFIG).read_text(encoding="utf-8")
    write_config(run.path, experiment.to_yaml())
    speak(f"{folder}: continues after round {checkpoint.record.round} of {experiment.rounds.count}")
    engine = experiment.engine.model_copy(update={"nodes": nodes})
    resolved = experiment.model_copy(update={"engine": engine})
    return Prepared(resolved, run.path, split_folder, config_before=before)


def _check_kept(
    run: RunFolder, checkpoint: Checkpoint, experiment: Experiment, n_clients: int
) -> None:
    """Make sure that what the best round so far has left behind is there."""
    last = checkpoint.record.round
    rounds, _ = rounds_before(run.path / ROUNDS, last, checkpoint.log)
    tally = Tally(experiment.evaluate.metrics[0])
    for record in rounds:
        tally.add(record)
    if tally.best is not None:
        run.check_best(tally.best.round, last, n_clients, bool(checkpoint.node_states))
    run.split()


def _from_the_beginning(
    run: RunFolder, experiment: Experiment, speak: Callable[[str], None]
) -> Prepared | None:
    """A folder without a checkpoint: of a run that took no round, or of one that keeps none."""
    if isinstance(experiment.model, Baseline):
        if run.result().get("status") in FINISHED and run.rounds():
            speak(f"{run.path}: is complete; a baseline is fitted once")
            return None
    elif run.rounds():
        raise RunFolderError(
            f"{run.path / CHECKPOINT}: is missing, so the run cannot continue; {RESTORE}"
        )
    speak(f"{run.path}: was stopped before its first checkpoint; starts at the beginning")
    return prepare_run(experiment, run.path, overwrite=True, say=speak)


def _check_config(path: Path, origin: Origin, experiment: Experiment, sets: Sequence[str]) -> None:
    was, now = _flat(origin.config), _flat(experiment.model_dump(mode="json"))
    keys = [
        key
        for key in dict.fromkeys([*was, *now])
        if was.get(key) != now.get(key) and not key.startswith(FREE)
    ]
    others = tuple(key.removesuffix("name") for key in keys if key.endswith(".name"))
    changed = [
        f"{key} is {_word(now, key)}, was {_word(was, key)}"
        for key in keys
        if key.endswith(".name") or not key.startswith(others)
    ]
    if changed:
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        where = f"{path / CONFIG}{' with --set' if sets else ''}"
        raise ConfigError(
            f"{where}: is not what was run: {'; '.join(changed[:NAMED])}{more}; a run goes on only "
            "with another engine, rounds.count or rounds.patience: set it back, or start a new run "
            "with another --out"
        )


def _check_origin(
    path: Path, origin: Origin, experiment: Experiment, split_folder: Path, accept_other_code: bool
) -> None:
    data, code = version_of(split_folder), code_hash()
    executor = experiment.client_task().executor()
    if data != origin.data:
        raise RunFolderError(
            f"{path}: the data is not what it was (version {data[:8]}, was {origin.data[:8]}); "
            "bring the old data back, or start a new run with another --out"
        )
    if executor != origin.executor:
        raise RunFolderError(
            f"{path}: train.backend: {experiment.train.backend} means '{executor}' in this "
            f"installation, where the run began it meant '{origin.executor}', which gives other "
            "bits; continue it there, or start a new run with another --out"
        )
    changed = changed_sources(origin.sources, source_hashes(experiment))
    if changed and not accept_other_code:
        raise RunFolderError(
            f"{changed[0]}: is not what it was when the run began; the source of then is "
            f"{path / SOURCE / changed[0]}: put it back, start a new run with another --out, or "
            "add --accept-other-code to continue with the new source"
        )
    if code != origin.code and not accept_other_code:
        raise RunFolderError(
            f"{path}: the code of fedrec is not what it was (hash {code[:8]}, was "
            f"{origin.code[:8]}); go back to that version, or add --accept-other-code to continue "
            "with this one"
        )


def _is_complete(run: RunFolder, checkpoint: Checkpoint, experiment: Experiment) -> bool:
    """Whether all has been done that the experiment asks for."""
    last, rounds = checkpoint.record.round, experiment.rounds
    if rounds.count < last:
        raise ConfigError(
            f"rounds.count: {rounds.count} is less than the {last} rounds that were run already; "
            "expected that many or more"
        )
    result = run.result()
    if result.get("status") not in FINISHED or result.get("rounds") != last:
        return False
    metric = experiment.evaluate.metrics[0]
    popularity = result.get("reference", {}).get("popularity", {}).get("valid", {}).get(metric)
    tally = Tally(metric, lambda: popularity)
    for record in run.rounds():
        tally.add(record)
    return rounds.count == last or (rounds.patience is not None and tally.stale >= rounds.patience)


def _nodes(origin: Origin, experiment: Experiment, split_folder: Path) -> int:
    """As many nodes as before: the local state of the clients lies with them."""
    asked = experiment.engine.nodes
    if asked == "auto":
        return origin.nodes
    resolved = min(resolve_engine(experiment.engine).nodes, open_split(split_folder).n_clients)
    if resolved != origin.nodes:
        raise ConfigError(
            f"engine.nodes: {asked}, but the local state lies on {origin.nodes} nodes; "
            f"write {origin.nodes} or 'auto'"
        )
    return origin.nodes


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    def walk(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in tree.items():
            if isinstance(value, Mapping):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(walk(tree, ""))


def _word(values: Mapping[str, Any], key: str) -> str:
    return shown(values[key]) if key in values else "absent"
