"""The ServerApp: read the experiment, call the roll, run the rounds."""

import uuid
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrec.config.sources import code_with_sources
from fedrec.errors import ConfigError, EngineError
from fedrec.flower import records
from fedrec.flower.grid import EngineGrid
from fedrec.flower.processes import code_hash
from fedrec.runs.log import name_of_run, read_checkpoint
from fedrec.runs.open_run import OpenRun, open_run
from fedrec.runs.origin import Origin
from fedrec.runs.prepare import check_simulated, find_config, prepare_run
from fedrec.runs.recorder import Recorder
from server.fleet import descriptions, finish, open_fleet
from server.loop import RoundLoop
from server.node_states import check_states
from server.roster import call_roll

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one experiment on the nodes of a grid."""
    config = context.run_config
    fleet = None
    if config.get("fleet"):  # the run folder of devices that have the data
        run, fleet = open_fleet(grid, Path(str(config["fleet"])))
    else:
        run = _open(config)
    experiment, split = run.experiment, run.split
    if run.fleet is not None:
        check_simulated(isinstance(grid, EngineGrid))
    checkpoint = read_checkpoint(run.folder)
    ids = name_of_run(checkpoint, run.id), run.id
    begun = checkpoint is not None
    description = records.RunDescription(*ids, experiment.for_nodes(), begun)
    code = code_with_sources(code_hash(), experiment)
    known = run.catalogue.hash, run.task.weights
    devices = {} if fleet is None else descriptions(fleet, description)
    roster = call_roll(grid, description, split.n_clients, code, *known, devices=devices)
    nodes = len(roster)
    origin = Origin.of(run, nodes)
    if checkpoint is not None:
        if checkpoint.origin.nodes != nodes:
            raise EngineError(
                f"{run.folder}: its clients live on {checkpoint.origin.nodes} nodes, but {nodes} "
                "are here; start as many"
            )
        check_states(str(run.folder), roster, checkpoint.node_states)
    workers = int(str(config["workers"])) if config.get("workers") else None
    engine = {"name": str(config.get("engine") or "flower"), "workers": workers, "nodes": nodes}
    observer = getattr(grid, "observer", None)
    with closing(Recorder(run, engine, observer, origin, checkpoint)) as recorder:
        params = run.task.initial_globals(split.n_items)
        loop = RoundLoop(
            experiment,
            params,
            run.task.tables(),
            run.task.travels(),
            roster,
            records.RoundRequest(*ids),
            recorder,
            run.catalogue,
            run.honest,
            run.ranking_users,
            run.split.clients,
            checkpoint,
            has_end=len(run.task.at_end().epochs) > 0,
            timing=run.timing,
        )
        loop.run(grid)
        best = recorder.tally.best
    if fleet is not None and best is not None:
        last = recorder.tally.rounds
        finish(grid, fleet, records.RoundRequest(*ids, round=last, best=best.round))


def _open(run_config: Mapping[str, Any]) -> OpenRun:
    """Return the run that the run configuration names; what it leaves out is prepared."""
    source = str(run_config.get("experiment") or "")
    if not source:
        raise ConfigError(
            "run-config: 'experiment' is empty; name a YAML file: flwr run . --run-config "
            "'experiment=\"experiments/ml-100k/mf.yaml\"'"
        )
    keys = ("out", "split", "features")
    out, prepared, features = (Path(str(run_config.get(key) or "")) for key in keys)
    if out.name and prepared.name:
        id = str(run_config.get("run") or uuid.uuid4().hex)
        return open_run(id, out, prepared, features if features.name else None)
    return prepare_run(find_config(Path(source)), out if out.name else None, by_fedrec=False)
