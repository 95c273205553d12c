"""The ServerApp: read the experiment, call the roll, run the rounds."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrec.config.experiment import load_experiment
from fedrec.config.sources import code_with_sources, source_hashes
from fedrec.data.prepare import open_split, version_of
from fedrec.errors import ConfigError, EngineError
from fedrec.evaluation.evaluate import check_cutoffs
from fedrec.flower import records
from fedrec.flower.packages import code_hash
from fedrec.runs.checkpoint import Origin, read_checkpoint
from fedrec.runs.effects import settings_without_effect
from fedrec.runs.recorder import Recorder
from fedrec.runs.run import Prepared, find_config, prepare_run
from server.roster import call_roll, check_states
from server.strategy import FlowerStrategy

__all__ = ["app"]

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one experiment on the nodes of a grid."""
    config = context.run_config
    prepared = _prepared(config)
    experiment, out, split = prepared.experiment, prepared.out, open_split(prepared.split)
    check_cutoffs(experiment.evaluate.parsed(), split.n_items)
    task = experiment.client_task()
    checkpoint = read_checkpoint(out)
    request = records.RoundRequest(
        run=uuid.uuid4().hex,
        out=str(out),
        split=str(prepared.split),
        committed=checkpoint.record.round if checkpoint else 0,
    )
    roster = call_roll(grid, request, split.n_clients, code_with_sources(code_hash(), experiment))
    nodes = len(roster.nodes)
    origin = Origin(
        config=experiment.model_dump(mode="json"),
        data=version_of(prepared.split),
        code=code_hash(),
        executor=task.executor(),
        nodes=nodes,
        sources=source_hashes(experiment),
    )
    if checkpoint is not None:
        if checkpoint.origin.nodes != nodes:
            raise EngineError(
                f"{out}: its clients live on {checkpoint.origin.nodes} nodes, but {nodes} are "
                "here; start as many"
            )
        check_states(str(out), roster, checkpoint.node_states)
    workers = int(str(config["workers"])) if config.get("workers") else None
    recorder = Recorder(
        out,
        experiment,
        split,
        {"name": str(config.get("engine") or "flower"), "workers": workers, "nodes": nodes},
        getattr(grid, "observer", None),
        warnings=settings_without_effect(experiment, split),
        origin=origin,
        checkpoint=checkpoint,
    )
    with closing(recorder):
        params = task.initial_globals(split.n_items)
        strategy = FlowerStrategy(
            experiment, params, task.travels(), roster, request, recorder, checkpoint
        )
        try:
            strategy.start(grid)
        except KeyboardInterrupt:
            recorder.finish("interrupted", strategy.published)
            raise


def _prepared(run_config: Mapping[str, Any]) -> Prepared:
    """Return what the run configuration names; what it leaves out is prepared."""
    source = str(run_config.get("experiment") or "")
    if not source:
        raise ConfigError(
            "run-config: 'experiment' is empty; name a YAML file: flwr run . --run-config "
            "'experiment=\"experiments/ml-100k/mf.yaml\"'"
        )
    out, split = (Path(str(run_config.get(key) or "")) for key in ("out", "split"))
    if out.name and split.name:
        return Prepared(load_experiment(source), out, split)
    return prepare_run(find_config(Path(source)), out if out.name else None)
