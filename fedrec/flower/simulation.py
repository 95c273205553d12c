"""The Flower engine: the apps under Flower's own simulation runtime, in a process of its own.

A process of its own, because the runtime shuts down whatever Ray there is when it ends, runs the
server app in a thread that no Ctrl-C reaches, and prints. This module, started with a folder as its
argument, is that process: it reads ``settings`` there, and leaves a `Failure` in ``failure``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import psutil

from fedrec.errors import EngineError
from fedrec.flower.grid import SERVER_NODE, Observer, node_context
from fedrec.flower.launch import ResolvedEngine
from fedrec.flower.processes import Failure, engine_variables

__all__ = ["run_on_flower"]

LINES_OF_LOG = 40
PAUSE = 0.1
GRACE = 8.0
HOME = "FLWR_HOME"


def run_on_flower(
    server: str,
    client: str,
    run_config: Mapping[str, str],
    engine: ResolvedEngine,
    observer: Observer | None = None,
    gpus_per_worker: float = 0.0,
) -> None:
    """Run the apps and wait for the end; no process and no file of Flower's stays behind.

    Args:
        server: Reference of the server app, ``module:attribute``.
        client: Reference of the client app.
        run_config: The run's configuration; ``out`` names the run folder.
        engine: How many simulated SuperNodes and Ray actors.
        observer: Is called with each line of ``rounds.jsonl`` as it is written.
        gpus_per_worker: Share of a GPU that each actor reserves.

    Raises:
        EngineError: If the run fails.
        FedRecError: What the server app raised, if it is fedrec's own.
    """
    with tempfile.TemporaryDirectory(prefix="fedrec-flower-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        settings = [server, client, dict(run_config), engine.nodes, engine.workers, gpus_per_worker]
        (folder / "settings").write_text(json.dumps(settings), encoding="utf-8")
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, name],
                env=_environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _pass_on(process, Path(run_config["out"]) / "rounds.jsonl", observer)
            if (folder / "failure").exists():
                failure = Failure(*json.loads((folder / "failure").read_text(encoding="utf-8")))
                raise failure.error("Flower's simulation")
            if process.returncode:
                lines = (folder / "log").read_text(encoding="utf-8", errors="replace").splitlines()
                error = EngineError(
                    f"Flower's simulation ended unexpectedly ({process.returncode})"
                )
                error.add_note("Its log ends with:\n" + "\n".join(lines[-LINES_OF_LOG:]))
                raise error
        finally:
            _end(process, name)


def _environment(home: str) -> dict[str, str]:
    standard = set(sysconfig.get_paths().values())
    path = [str(Path(entry or ".").resolve()) for entry in sys.path]
    environment = {
        **os.environ,
        **engine_variables(),
        HOME: home,
        "PYTHONPATH": os.pathsep.join(entry for entry in path if entry not in standard),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("RAY_ADDRESS", None)
    return environment


def _pass_on(process: subprocess.Popen[bytes], log: Path, observer: Observer | None) -> None:
    """Hand the lines that the run log gains to an observer until a process ends."""
    position = log.stat().st_size if log.exists() else 0
    ended = False
    while not ended:
        time.sleep(PAUSE)
        ended = process.poll() is not None
        if observer is not None and log.exists():
            with log.open("rb") as file:
                file.seek(position)
                new = file.read()
            lines = new[: new.rfind(b"\n") + 1]
            position += len(lines)
            for line in lines.splitlines():
                observer(json.loads(line))


def _end(process: subprocess.Popen[bytes], home: str) -> None:
    """End a process and what it has started, which is told by its environment.

    Once Ray is down, its workers, which end later, descend from nobody here.
    """
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    process.kill()
    process.wait()
    everybody = psutil.process_iter(["environ"])
    others = [each for each in everybody if (each.info["environ"] or {}).get(HOME) == home]
    _, alive = psutil.wait_procs(others, timeout=GRACE)
    for each in alive:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(alive, timeout=GRACE)


def main(folder: Path) -> None:
    """Run the apps; leave what was raised as ``failure`` in the folder."""
    settings = json.loads((folder / "settings").read_text(encoding="utf-8"))
    try:
        _simulate(*settings)
    except BaseException as error:
        (folder / "failure").write_text(json.dumps(Failure.of(error)), encoding="utf-8")
        raise


def _simulate(
    server: str, client: str, run_config: dict[str, Any], nodes: int, workers: int, gpus: float
) -> None:
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    app, raised = ServerApp(), []

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            resolve_name(server)(grid, node_context(SERVER_NODE, nodes, run_config))
        except BaseException as error:
            raised.append(error)
            raise

    backend: Any = {
        "init_args": {"num_cpus": workers, "include_dashboard": False, "log_to_driver": False},
        "client_resources": {"num_cpus": 1.0, "num_gpus": gpus},
    }
    try:
        run_simulation(app, resolve_name(client), nodes, backend_config=backend)
    except Exception as error:
        raise (raised[0] if raised else error.__cause__ or error) from None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
