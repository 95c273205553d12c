"""Run an experiment, and look at one that was run."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.cohorts import cohort_size
from fedrec.config import Experiment, load_experiment
from fedrec.data.cache import cache_folder
from fedrec.data.negatives import pool_excluded
from fedrec.data.prepare import open_split, prepare
from fedrec.errors import ConfigError, DataError, MissingExtra, RunFolderError, did_you_mean
from fedrec.evaluation import check_cutoffs, evaluate
from fedrec.flower.launch import launch, resolve_engine
from fedrec.flower.siblings import check_siblings
from fedrec.models.base import Scorer, Yardstick
from fedrec.ranking import check_candidates, top_k
from fedrec.recorder import Recorder
from fedrec.runfolder import RunFolder, check_free, create, discard_unstarted, write_text
from fedrec.runlog import RoundRecord, Seconds
from fedrec.training.clients import kernel_of, user_scorer
from fedrec.training.method import Method
from fedrec.types import FloatArray, IntArray, Ragged, Split

__all__ = [
    "Prepared",
    "Recommendation",
    "RunResult",
    "find_config",
    "load",
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
    """

    experiment: Experiment
    out: Path
    split: Path


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One recommended item.

    Args:
        item: Its raw id.
        title: Its title, where the data has one.
        score: The user's score for it.
    """

    item: str
    title: str | None
    score: float


@dataclass(frozen=True)
class RunResult:
    """A run: its folder, its result, and what it recommends.

    Args:
        folder: The run folder.
    """

    folder: Path

    @cached_property
    def result(self) -> dict[str, Any]:
        """The content of ``result.json``."""
        return RunFolder(self.folder).result()

    @cached_property
    def experiment(self) -> Experiment:
        """What was run."""
        return load_experiment(self.folder / "config.yaml")

    @cached_property
    def _split(self) -> Split:
        return open_split(prepare(self.experiment.data, self.experiment.clients))

    @cached_property
    def _scorer(self) -> tuple[Scorer, IntArray]:
        """Scores by row, and the user of each row."""
        model = self.experiment.model
        split = self._split
        if isinstance(model, Yardstick):
            return model.fit(split, self.experiment.seed), np.arange(split.n_users, dtype=np.int64)
        folder = RunFolder(self.folder)
        shard = split.shard(np.arange(split.n_clients, dtype=np.int64))
        method = Method.of(self.experiment)
        params = folder.model()
        local: dict[str, FloatArray] = {}
        by_user, by_client, by_row = (folder.local(per) for per in ("user", "client", "row"))
        place = np.argsort(shard.user_ids, kind="stable")
        for name, spec in method.locals().items():
            if "/" in name:
                continue
            kept = {"user": by_user, "client": by_client}.get(spec.per or "client", by_row)
            if name not in kept:
                raise RunFolderError(
                    f"{self.folder}: '{name}' of the best round is missing, the run broke off "
                    "while it was kept; run it again"
                )
            local[name] = kept[name]
            if spec.per == "user":
                local[name] = np.empty_like(kept[name])
                local[name][place] = kept[name]
        score = user_scorer(method, shard, params, local)
        return (lambda rows: np.asarray(score(rows)["mixed"].numpy())), shard.user_ids

    def recommend(self, user: str, k: int = 10) -> list[Recommendation]:
        """The items with the highest scores for a user, its train and validation items left out.

        Args:
            user: Its raw id.
            k: How many.

        Returns:
            Best first; fewer than k where the catalogue has no more.

        Raises:
            DataError: If the user is not in the data.
        """
        split = self._split
        found = np.flatnonzero(split.user_ids == str(user))
        if len(found) == 0:
            hint = (
                did_you_mean(str(user), split.user_ids.tolist()) if split.n_users < 10_000 else ""
            )
            if "did you mean" not in hint:
                hint = f"; its ids are such as '{split.user_ids[0]}' and '{split.user_ids[-1]}'"
            raise DataError(f"user '{user}' is not in the data{hint}")
        if not 1 <= k <= split.n_items:
            raise ConfigError(f"k: expected 1 to {split.n_items}, the number of items, got {k}")
        scorer, users = self._scorer
        row = np.flatnonzero(users == found[0])
        scores = scorer(row)
        known = np.union1d(split.train.row(int(found[0])), split.valid.row(int(found[0])))
        top = top_k(scores, Ragged(np.array([0, len(known)]), known), k)[0]
        titles = split.item_columns.get("title")
        return [
            Recommendation(
                str(split.item_ids[item]),
                None if titles is None else str(titles[item]),
                float(scores[0, item]),
            )
            for item in top[top >= 0]
        ]


def run(
    experiment: Experiment | str | Path,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    on_round: Callable[[RoundRecord], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> RunResult:
    """Run an experiment to its end.

    Args:
        experiment: The experiment, or the path of its YAML file.
        out: The run folder; default ``runs/<name>-seed<N>`` in the working folder.
        overwrite: Replace an existing run folder.
        on_round: Is called with the record of each round.
        say: Is called with a line about what is being done.

    Returns:
        The run.

    Raises:
        FedRecError: One line that says what is wrong and what to do, before any work is done.
    """
    prepared = prepare_run(
        experiment, Path(out) if out is not None else None, overwrite=overwrite, say=say
    )

    def observe(record: Mapping[str, Any]) -> None:
        if on_round is not None:
            on_round(RoundRecord.model_validate(record))

    try:
        if isinstance(prepared.experiment.model, Yardstick):
            _run_yardstick(prepared, prepared.experiment.model, observe)
        else:
            _run_federated(prepared, observe)
    except BaseException:
        discard_unstarted(prepared.out)
        raise
    return RunResult(prepared.out)


def load(folder: str | Path) -> RunResult:
    """A run that was made earlier.

    Args:
        folder: The run folder.

    Raises:
        RunFolderError: If it is none.
    """
    return RunResult(RunFolder(Path(folder)).path)


def prepare_run(
    source: Experiment | str | Path,
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
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingExtra("pyarrow, for running experiments,", "sim")
    stem = "experiment" if isinstance(source, Experiment) else Path(source).stem
    folder = (out or Path("runs") / f"{stem}-seed{experiment.seed}").absolute()
    if not isinstance(experiment.model, Yardstick):
        kernel_of(Method.of(experiment))
        resolve_engine(experiment.engine)
        check_siblings()
    check_free(folder, overwrite)
    split_folder = prepare(experiment.data, experiment.clients)
    split = open_split(split_folder)
    _check_sizes(experiment, split)
    speak(
        f"{split.name}: {split.n_users} users, {split.n_items} items, "
        f"{len(split.train.values)} train interactions, {split.n_clients} clients"
    )
    if not isinstance(experiment.model, Yardstick) and _must_compile(experiment):
        speak("compiling the training kernel, once on a machine (about half a minute)")
    create(folder, overwrite)
    kept = experiment.model_copy(update={"data": experiment.data.located()})
    write_text(folder / "config.yaml", kept.to_yaml())
    return Prepared(experiment, folder, split_folder)


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
    compiled = kernel_of(Method.of(experiment)) == "compiled"
    return compiled and not any((cache_folder() / "numba").glob("**/*.nbc"))


def _check_sizes(experiment: Experiment, split: Split) -> None:
    if isinstance(experiment.model, Yardstick) and experiment.data.protocol == "legacy":
        raise ConfigError("data.protocol: the yardsticks are measured on 'clean' only")
    check_cutoffs(experiment.evaluate.parsed(), split.n_items)
    cohort_size(experiment.rounds, split.n_clients)
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
    engine = prepared.experiment.engine
    resolved = resolve_engine(engine)
    nodes = min(resolved.nodes, open_split(prepared.split).n_clients)
    workers = min(resolved.workers, nodes)
    launch(
        engine.model_copy(update={"nodes": nodes, "workers": workers}),
        {
            "experiment": str(prepared.out / "config.yaml"),
            "out": str(prepared.out),
            "split": str(prepared.split),
            "engine": resolved.name,
            "workers": str(workers),
        },
        observer,
    )


def _run_yardstick(
    prepared: Prepared, model: Yardstick, observer: Callable[[Mapping[str, Any]], None]
) -> None:
    """Fit once, let every user rank once."""
    experiment, split = prepared.experiment, open_split(prepared.split)
    engine = {"name": "centralised", "workers": 1, "nodes": 1}
    recorder = Recorder(prepared.out, experiment, split, engine, observer, centralised=True)
    began = time.perf_counter()
    scorer = model.fit(split, experiment.seed)
    fitted = time.perf_counter()
    shard = split.shard(np.arange(split.n_clients, dtype=np.int64))
    evaluation = evaluate(
        shard,
        lambda rows: {"mixed": scorer(shard.user_ids[rows])},
        experiment.evaluate.parsed(),
        experiment.evaluate.block,
    )
    seconds = Seconds(train=fitted - began, evaluate=time.perf_counter() - fitted)
    record = RoundRecord(round=0, clients=split.n_clients, seconds=seconds)
    recorder.record(record, evaluation, {})
    recorder.finish("completed", {})
