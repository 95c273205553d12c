"""The Flower engine: the apps under Flower's own simulation runtime, in a process of its own.

A process of its own, because the runtime shuts down whatever Ray there is when it ends, runs the
server app in a thread that no Ctrl-C reaches, and prints. Started with the path of a JSON file as
its argument, this module is that process.
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
from typing import Any

import psutil

from fedrec.errors import EngineError
from fedrec.flower.environment import engine_variables
from fedrec.flower.failures import Failure
from fedrec.flower.grid import SERVER_NODE, Observer, node_context
from fedrec.storage.files import write_text

__all__ = ["run_on_flower"]

LINES_OF_LOG = 40
PAUSE = 0.1
GRACE = 8.0


def run_on_flower(
    server: str,
    client: str,
    run_config: Mapping[str, str],
    nodes: int,
    workers: int,
    observer: Observer | None = None,
    *,
    gpus_per_worker: float = 0.0,
) -> None:
    """Run the apps and wait for the end; no process and no file of Flower's stays behind.

    Args:
        server: Reference of the server app, ``module:attribute``.
        client: Reference of the client app.
        run_config: The run's configuration; ``out`` names the run folder.
        nodes: How many simulated SuperNodes.
        workers: How many Ray actors.
        observer: Is called with each line of ``rounds.jsonl`` as it is written.
        gpus_per_worker: Share of a GPU that each actor reserves.

    Raises:
        EngineError: If the run fails.
        FedRecError: What the server app raised, if it is fedrec's own.
    """
    with tempfile.TemporaryDirectory(prefix="fedrec-flower-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        settings = {
            "server": server,
            "client": client,
            "run_config": dict(run_config),
            "nodes": nodes,
            "workers": workers,
            "gpus_per_worker": gpus_per_worker,
            "report": str(folder / "report"),
        }
        write_text(folder / "settings.json", json.dumps(settings))
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(folder / "settings.json")],
                env=_environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _follow(process, folder, _Tail(Path(run_config["out"]) / "rounds.jsonl", observer))
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that descend from it."""
    descendants = _descendants(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    process.kill()
    process.wait()
    _outlive(descendants)


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _outlive(processes: list[psutil.Process]) -> None:
    """Wait until processes have ended, and kill those that stay."""
    _, alive = psutil.wait_procs(processes, timeout=GRACE)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=GRACE)


def _environment(folder: Path) -> dict[str, str]:
    standard = set(sysconfig.get_paths().values())
    path = [str(Path(entry or ".").resolve()) for entry in sys.path]
    environment = {
        **os.environ,
        **engine_variables(),
        "FLWR_HOME": str(folder / "home"),
        "PYTHONPATH": os.pathsep.join(entry for entry in path if entry not in standard),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("RAY_ADDRESS", None)
    return environment


def _follow(process: subprocess.Popen[bytes], folder: Path, rounds: _Tail) -> None:
    """Pass the rounds on until the process has reported how the run ended."""
    report = folder / "report"
    while True:
        ended = process.poll() is not None
        rounds.read()
        if report.exists():
            text = report.read_text(encoding="utf-8")
            if text:
                raise Failure.from_json(text).error("Flower's simulation")
            return
        if ended:
            log = (folder / "log").read_text(encoding="utf-8", errors="replace").splitlines()
            error = EngineError(f"Flower's simulation ended unexpectedly ({process.returncode})")
            error.add_note("Its log ends with:\n" + "\n".join(log[-LINES_OF_LOG:]))
            raise error
        time.sleep(PAUSE)


class _Tail:
    """Hands the lines that a file gains to an observer."""

    def __init__(self, path: Path, observer: Observer | None) -> None:
        self._path = path
        self._observer = observer
        self._position = path.stat().st_size if path.exists() else 0

    def read(self) -> None:
        if self._observer is None or not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            new = file.read()
        lines = new[: new.rfind(b"\n") + 1]
        self._position += len(lines)
        for line in lines.splitlines():
            self._observer(json.loads(line))


def main(settings: Mapping[str, Any]) -> None:
    """Run the apps, and report the end: an empty file, or what was raised as `Failure.to_json`."""
    report = Path(settings["report"])
    try:
        _simulate(settings)
    except BaseException as error:
        write_text(report, Failure.of(error).to_json())
        raise
    write_text(report, "")


def _simulate(settings: Mapping[str, Any]) -> None:
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    from fedrec.flower.apps import load_app

    server = load_app(settings["server"], "ServerApp")
    app, raised, workers = ServerApp(), [], []

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            server(grid, node_context(SERVER_NODE, settings["nodes"], settings["run_config"]))
        except BaseException as error:
            raised.append(error)
            raise
        finally:  # once Ray is down, its workers, which end later, descend from nobody here
            workers.extend(_descendants(os.getpid()))

    share = {"num_cpus": 1.0, "num_gpus": settings["gpus_per_worker"]}
    init = {"num_cpus": settings["workers"], "include_dashboard": False, "log_to_driver": False}
    client = load_app(settings["client"], "ClientApp")
    try:
        backend = {"init_args": init, "client_resources": share}
        run_simulation(app, client, settings["nodes"], backend_config=backend)
    except Exception as error:
        raise (raised[0] if raised else error.__cause__ or error) from None
    finally:
        _outlive(workers)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
