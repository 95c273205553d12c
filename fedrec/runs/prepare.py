"""How a run is made ready: experiment, data, engine, folder."""

import logging
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fedrec.baselines.base import Baseline
from fedrec.compute.device import described, sees_gpu
from fedrec.compute.numba_compiler import build, is_built
from fedrec.config.engine import Engine
from fedrec.config.experiment import Experiment, load_experiment
from fedrec.config.sources import sources_of, with_importable_plugins
from fedrec.data.negatives import pool_excluded
from fedrec.data.prepare import open_split, prepare
from fedrec.errors import ConfigError, require
from fedrec.evaluation.evaluate import check_cutoffs
from fedrec.evaluation.ranking import check_candidates
from fedrec.evaluation.slices import Slices
from fedrec.features.prepare import Report, no_report, open_catalogue, prepare_features
from fedrec.flower.launch import resolve_engine
from fedrec.flower.processes import check_packages
from fedrec.runs.folder import (
    FEATURES,
    SOURCE,
    SPLIT,
    check_free,
    create,
    default_folder,
    discard_unstarted,
)
from fedrec.runs.open_run import OpenRun
from fedrec.runs.state_size import check_server_state, check_state
from fedrec.runs.transformed import with_transforms
from fedrec.storage.files import write_bytes, write_text
from fedrec.training.draws import check_order
from fedrec.training.task import Executor
from fedrec.types import Split

# Sections that a centralised baseline does not use.
FEDERATED = (
    "train",
    "personalization",
    "strategy",
    "transforms",
    "rounds",
    "clients",
    "engine",
)
# An experiment, its sections as a mapping, or the path of its YAML file.
Source: TypeAlias = Experiment | Mapping[str, Any] | str | Path
LOG = logging.getLogger("fedrec")

# Training rows of one core in a second, to half an order of magnitude: `numba` makes 3 to 14
# million of them, matrix factorisation more than PLGC.
ROWS_PER_SECOND = {"numba": 5e6}
# The same for executors on torch: 0.25 to 1.1 million.
OTHER_ROWS_PER_SECOND = 4e5
# Features up to this size are copied into the run folder.
KEPT_BYTES = 64 * 2**20
# Seconds that Ray takes longer to start than the serial engine (7 and 2 on two cores).
START_OF_RAY = 5.0


def settings_without_effect(run: OpenRun) -> list[str]:
    """Return one line for each setting without effect: its dotted name, its value, the reason."""
    experiment = run.experiment
    model, fields = experiment.model, Experiment.model_fields
    unused = FEDERATED if isinstance(model, Baseline) else ()
    lines = [
        f"{name}: has no effect: {type(model).__name__} is a centralised baseline"
        for name in unused
        if getattr(experiment, name) != fields[name].get_default(call_default_factory=True)
    ]
    return lines + experiment.all_without_effect(run, unused)


def prepare_run(
    source: Source,
    out: Path | None,
    *,
    overwrite: bool = False,
    report: Report = no_report,
    by_fedrec: bool = True,
) -> OpenRun:
    """Check everything that can be checked, prepare the data and make the run folder.

    Args:
        source: What is to be run.
        out: The run folder; None: a default.
        overwrite: Replace an existing run folder.
        report: Is told how far the encoding of features is.
        by_fedrec: Whether fedrec runs the nodes itself, on an engine of its own.

    Raises:
        FedRecError: What is wrong, and what to do.
    """
    experiment = source if isinstance(source, Experiment) else load_experiment(source)
    experiment = with_importable_plugins(experiment)
    folder = (out or default_folder(source, seed=experiment.seed)).absolute()
    check_free(folder, overwrite)
    run = open_experiment(experiment, folder, report=report, by_fedrec=by_fedrec)
    for line in settings_without_effect(run):
        LOG.warning(line)
    try:
        create(folder, overwrite)
        _fill(run)
    except KeyboardInterrupt:
        discard_unstarted(folder)
        raise
    return run


def _fill(run: OpenRun) -> None:
    """Copy into a run folder all that the run begins with."""
    folder = run.folder
    run.write_config()
    for name, text in sources_of(run.experiment).items():
        (folder / SOURCE / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / SOURCE / name, text)
    write_bytes(folder / SPLIT, run.prepared.read_bytes())
    if run.features is not None:
        size = run.features.stat().st_size
        if size <= KEPT_BYTES:
            write_bytes(folder / FEATURES, run.features.read_bytes())
        else:
            LOG.warning(
                f"features: {size / 2**20:.0f} MiB are not copied into the run folder; it can be "
                f"continued where {run.features}, or what they are made of, is still there"
            )


def open_experiment(
    experiment: Experiment,
    folder: Path,
    nodes: int | None = None,
    kept: Path | None = None,
    report: Report = no_report,
    by_fedrec: bool = True,
) -> OpenRun:
    """See whether this installation has what an experiment needs, and prepare its data.

    Args:
        experiment: What is to be run.
        folder: The run folder; it need not exist.
        nodes: Among how many nodes the clients are dealt, where the experiment leaves it open.
        kept: The folder of a run that goes on, with its split and features, for the case that the
            data is gone.
        report: Is told how far the encoding of features is.
        by_fedrec: Whether fedrec runs the nodes itself, on an engine of its own.

    Raises:
        FedRecError: What is missing, and how to get it.
    """
    require("pyarrow", "for running experiments")
    federated = not isinstance(experiment.model, Baseline)
    if federated:
        resolve_engine(experiment.engine)
        check_packages()
    experiment.check_features()
    kept_split, kept_features = (None if kept is None else kept / n for n in (SPLIT, FEATURES))
    prepared = prepare(experiment.data, experiment.clients, kept_split)
    split = open_split(prepared)
    if prepared == kept_split:
        LOG.info(f"{split.name}: the data is gone; the run goes on with its copy, {kept_split}")
    else:
        prepared, split = with_transforms(experiment, prepared, split)
    _check_sizes(experiment, split)
    LOG.info(
        f"{split.name}: {split.n_users} users, {split.n_items} items, "
        f"{len(split.train.values)} train interactions, {split.n_clients} clients"
    )
    features = prepare_features(experiment.features, prepared, kept_features, report)
    if not federated:
        return OpenRun(folder, experiment, prepared, split, features=features)
    task = experiment.client_task(open_catalogue(split, features))
    everybody = split.shard(np.arange(split.n_clients))
    check_state(task, everybody, experiment.engine.state_limit)
    check_server_state(experiment.strategy, task, split, experiment.engine.state_limit)
    if experiment.attack is not None:
        experiment.attack.check(task.shared_specs())
    executor = task.executor()
    if executor == "numba" and not is_built():
        LOG.info("compiling the training kernel, once on a machine (about half a minute)")
        build()
    asked = experiment.engine
    if nodes is not None and asked.nodes == "auto":
        asked = asked.model_copy(update={"nodes": nodes})
    engine, line = choose_engine(experiment.model_copy(update={"engine": asked}), split, executor)
    # Workers have devices of their own.
    device = engine.device if engine.name == "serial" else "cpu"
    if by_fedrec:
        LOG.info(line)
    on = engine if by_fedrec else None
    run = OpenRun(folder, experiment, prepared, split, on, features, device=device)
    if run.fleet is not None:  # read here, so that a wrong file is named before the run begins
        check_simulated(by_fedrec and engine.name != "flower")
    _check_plan(run)
    return run


def check_simulated(simulated: bool) -> None:
    """Check that the devices of ``rounds.devices`` are simulated.

    Args:
        simulated: Whether fedrec runs the nodes itself, on an engine of its own.

    Raises:
        ConfigError: If they are not: they take the time that they take.
    """
    if not simulated:
        raise ConfigError(
            "rounds.devices: describes devices that are simulated, and nodes that fedrec does not "
            "run itself take the time that they take; leave it out, or take engine: serial or ray"
        )


def _check_plan(run: OpenRun) -> None:
    plan: Any = run.experiment.rounds.plan
    if not hasattr(plan, "check"):
        raise ConfigError(
            "rounds.plan: is not a round plan of fedrec (subclass server.plans.RoundPlan)"
        )
    plan.check(run)


def find_config(config: Path) -> Path:
    """Return the file of an experiment: as given, or of that name among the shipped ones.

    A path such as ``experiments/ml-100k/mf.yaml`` is found from any working folder. The path as
    given is returned if nothing is found, so that reading it tells what is missing.
    """
    if config.exists() or config.is_absolute():
        return config
    beside = Path(__file__).resolve().parents[2] / config
    if config.parts[:1] == ("experiments",) and beside.exists():
        return beside
    ending = f"share/fedrec/{config.as_posix()}"
    shipped = (f for f in metadata.files("fedrec") or [] if f.as_posix().endswith(ending))
    return next((Path(str(file.locate())) for file in shipped), config)


def _check_sizes(experiment: Experiment, split: Split) -> None:
    legacy = experiment.data.protocol == "legacy"
    if not isinstance(experiment.model, Baseline):
        check_order(experiment.model, split.timestamps, split.name)
    elif legacy:
        raise ConfigError("data.protocol: the baselines are measured on 'clean' only")
    honest = experiment.honest_part(split)
    slices = experiment.evaluate.slices_of(honest)
    if legacy and slices is not None:
        raise ConfigError(
            "evaluate.slices: protocol legacy ranks no slices; use data.protocol: clean"
        )
    n_ranked = int((~slices.is_cold).sum()) if slices else split.n_items
    check_cutoffs(experiment.evaluate.parsed(), n_ranked)
    _check_targets(experiment, honest, slices)
    experiment.rounds.clients_of(split.n_clients)
    nodes = experiment.engine.nodes
    if isinstance(nodes, int) and nodes > split.n_clients:
        raise ConfigError(
            f"engine.nodes: {nodes} nodes are more than the {split.n_clients} clients; lower it or "
            "write 'auto'"
        )
    if legacy and experiment.evaluate.rerank is not None:
        raise ConfigError(
            "evaluate.rerank: data.protocol legacy ranks 99 sampled candidates; use clean"
        )
    if legacy:
        check_candidates(pool_excluded(split, "legacy"), split.n_items)


def _check_targets(experiment: Experiment, split: Split, slices: Slices | None) -> None:
    targets = experiment.evaluate.targets_of(split, experiment.seed)
    for label in experiment.evaluate.target_metrics:
        if experiment.data.protocol == "legacy":
            raise ConfigError(
                f"evaluate.metrics: {label} ranks the whole catalogue, and data.protocol legacy 99 "
                "sampled candidates; use clean"
            )
        cold = targets if slices is None else targets[slices.is_cold[targets]]
        if slices is not None and len(cold):
            raise ConfigError(
                f"evaluate.targets: nobody trains on item '{split.item_ids[cold[0]]}', and with "
                f"slices {label} ranks warm items among warm items; name others"
            )


def choose_engine(experiment: Experiment, split: Split, executor: Executor) -> tuple[Engine, str]:
    """Return the engine section without any ``auto``, and a line that says why it was chosen.

    Ray is chosen where its workers save more time than Ray takes to start, by an estimate of the
    training time on one core, or if ``workers``, ``address`` or ``gpus_per_worker`` is set; not
    where this machine has a GPU, which one process can use by itself.
    """
    engine, reason, moves = experiment.engine, "as configured", executor in ("vmap", "loop")
    resolved = resolve_engine(engine, moves)
    if engine.name == "auto" and resolved.name == "serial":
        on_gpu = resolved.device != "cpu"
        reason = f"engine.device is {engine.device}" if on_gpu else "Ray is not installed"
    elif engine.name == "auto":
        parallel = {
            "workers": engine.workers not in ("auto", 1),
            "address": engine.address,
            "gpus_per_worker": resolved.gpus_per_worker,
        }
        given = [key for key, is_set in parallel.items() if is_set]
        seconds = training_seconds(experiment, split, executor)
        reason = (
            f"training takes about {seconds:.0f} s on one core, Ray {START_OF_RAY:.0f} s to start"
        )
        if given:
            reason = f"engine.{given[0]} is set"
        elif moves and engine.device == "auto" and sees_gpu():
            reason = "this machine has a GPU"
            resolved = resolve_engine(engine.model_copy(update={"name": "serial"}), moves)
        elif seconds * (1 - 1 / resolved.workers) <= START_OF_RAY:
            resolved = resolve_engine(engine.model_copy(update={"name": "serial"}), moves)
    nodes = min(resolved.nodes, split.n_clients)
    workers = min(resolved.workers, nodes)
    processes = "" if workers == 1 else f" with {workers} workers"
    where = "" if resolved.device == "cpu" else f" on {described(resolved.device)}"
    where += f" in {resolved.precision}" * (moves and resolved.precision != "float32")
    line = f"engine {resolved.name}{processes} ({reason}), executor {executor}{where}"
    return resolved.model_copy(update={"nodes": nodes, "workers": workers}), line


def training_seconds(experiment: Experiment, split: Split, executor: Executor) -> float:
    """Estimate the seconds that all rounds train on one core, from the rows of their batches."""
    train, rounds = experiment.train, experiment.rounds
    share = rounds.clients_of(split.n_clients) / split.n_clients
    rows = len(split.train.values) * share * (1 + train.negatives) * train.local_epochs
    return rows * rounds.count / ROWS_PER_SECOND.get(executor, OTHER_ROWS_PER_SECOND)
