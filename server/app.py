"""The ServerApp: read the experiment, call the roll, run the rounds."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrec.config.experiment import Experiment, load_experiment
from fedrec.config.sources import code_with_sources, source_hashes
from fedrec.data.prepare import open_split, version_of
from fedrec.errors import ConfigError, EngineError
from fedrec.evaluation.evaluate import check_cutoffs
from fedrec.flower import records
from fedrec.flower.grid import EngineGrid
from fedrec.flower.packages import code_hash
from fedrec.runs.checkpoint import Origin, read_checkpoint
from fedrec.runs.effects import settings_without_effect
from fedrec.runs.recorder import Recorder
from fedrec.runs.run import find_config, prepare_run
from fedrec.training.clients import resolve_executor
from server.roster import call_roll, check_states
from server.strategy import FlowerStrategy, Plan
from strategies.base import Strategy

__all__ = ["app"]

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one experiment on the nodes of a grid."""
    experiment, out, split_folder = _what(context.run_config)
    split = open_split(split_folder)
    check_cutoffs(experiment.evaluate.parsed(), split.n_items)
    if not isinstance(experiment.strategy, Strategy):
        raise ConfigError("strategy: is not a strategy of fedrec (subclass strategies.Strategy)")
    task = experiment.client_task()
    checkpoint = read_checkpoint(out)
    request = records.RoundRequest(
        run=uuid.uuid4().hex,
        out=str(out),
        split=str(split_folder),
        committed=checkpoint.record.round if checkpoint else 0,
    )
    roster = call_roll(grid, request, split.n_clients, code_with_sources(code_hash(), experiment))
    origin = Origin(
        config=experiment.model_dump(mode="json"),
        data=version_of(split_folder),
        code=code_hash(),
        executor=resolve_executor(task),
        nodes=len(roster.node_ids),
        sources=source_hashes(experiment),
    )
    if checkpoint is not None:
        if checkpoint.origin.nodes != origin.nodes:
            raise EngineError(
                f"{out}: its clients live on {checkpoint.origin.nodes} nodes, but {origin.nodes} "
                "are here; start as many"
            )
        check_states(str(out), roster, checkpoint.node_states)
    rounds = experiment.rounds
    plan = Plan(
        seed=experiment.seed,
        n_clients=split.n_clients,
        cohort_size=rounds.clients_of(split.n_clients),
        rounds=rounds.count,
        every=experiment.evaluate.every,
        patience=rounds.patience,
        max_failures=rounds.max_failures,
    )
    recorder = Recorder(
        out,
        experiment,
        split,
        _engine(context.run_config, len(roster.node_ids)),
        grid.observer if isinstance(grid, EngineGrid) else None,
        warnings=settings_without_effect(experiment, split),
        origin=origin,
        checkpoint=checkpoint,
    )
    with closing(recorder):
        params = task.initial_globals(split.n_items)
        strategy = FlowerStrategy(
            experiment.strategy, params, task.travels(), roster, request, plan, recorder
        )
        if checkpoint is not None:
            strategy.resume(checkpoint)
        try:
            strategy.start(grid)
        except KeyboardInterrupt:
            recorder.finish("interrupted", strategy.published)
            raise


def _what(run_config: Mapping[str, Any]) -> tuple[Experiment, Path, Path]:
    """The experiment, the run folder and the prepared data that the run configuration names."""
    source = str(run_config.get("experiment") or "")
    if not source:
        raise ConfigError(
            "run-config: 'experiment' is empty; name a YAML file: flwr run . --run-config "
            "'experiment=\"experiments/ml-100k/mf.yaml\"'"
        )
    out, split = run_config.get("out"), run_config.get("split")
    if out and split:
        return load_experiment(source), Path(str(out)), Path(str(split))
    prepared = prepare_run(find_config(Path(source)), Path(str(out)) if out else None)
    return prepared.experiment, prepared.out, prepared.split


def _engine(run_config: Mapping[str, Any], nodes: int) -> dict[str, Any]:
    """Name, workers and nodes, as far as the run configuration tells."""
    workers = run_config.get("workers")
    return {
        "name": str(run_config.get("engine") or "flower"),
        "workers": int(workers) if workers else None,
        "nodes": nodes,
    }
