"""The Flower engine: the apps under Flower's own simulation runtime, in a process of its own.

A process of its own, because the runtime shuts down whatever Ray there is when it ends, runs the
server app in a thread that no Ctrl-C reaches, and prints. This module, run as a program, is that
process: it reads its settings from the standard input, whose end is that of the process which has
started it, and writes a line of JSON for each round, log record and failure.
"""

import json
import logging
import math
import os
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pkgutil import resolve_name
from typing import Any

import psutil

from fedrec.errors import EngineError
from fedrec.flower.grid import SERVER_NODE, node_context
from fedrec.flower.launch import ResolvedEngine
from fedrec.flower.processes import Failure, Observer, engine_variables, import_path

LOG = logging.getLogger("fedrec")
LINES_OF_LOG = 40
SECONDS_TO_END = 8.0
HOME = "FLWR_HOME"


def run_on_flower(
    server: str,
    client: str,
    run_config: Mapping[str, str],
    engine: ResolvedEngine,
    observer: Observer | None = None,
    node_config: Mapping[str, str] | None = None,
) -> None:
    """Run the apps and wait for the end; no process and no file of Flower's stays behind.

    Arguments are those of `fedrec.flower.launch.launch`.

    Raises:
        EngineError: If the run fails.
        FedRecError: What the server app raised, if it is fedrec's own.
    """
    share = engine.gpus_per_worker
    cores_each = 1.0 if engine.cpus_per_worker is None else engine.cpus_per_worker
    each = [engine.nodes, engine.workers, share, cores_each]
    settings = [server, client, dict(run_config), dict(node_config or {}), *each]
    with (
        tempfile.TemporaryDirectory(prefix="fedrec-flower-", ignore_cleanup_errors=True) as home,
        tempfile.TemporaryFile("w+", errors="replace") as log,
        subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            env=_environment(home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        try:
            with suppress(BrokenPipeError):  # it ended at once; its log says why
                os.write(process.stdin.fileno(), json.dumps(settings).encode() + b"\n")
            for line in process.stdout:
                kind, value = json.loads(line)
                if kind == "failure":
                    raise Failure(*value).error("Flower's simulation")
                if kind == "log":
                    LOG.log(*value)
                elif observer is not None:
                    observer(value)
            if code := process.wait():
                log.seek(0)
                error = EngineError(f"Flower's simulation ended unexpectedly ({code})")
                lines = log.read().splitlines()[-LINES_OF_LOG:]
                error.add_note("\n".join(["Its log ends with:", *lines]))
                raise error
        finally:
            _end(process, home)


def _environment(home: str) -> dict[str, str]:
    standard = set(sysconfig.get_paths().values())
    environment = {
        **os.environ,
        **engine_variables(),
        HOME: home,
        "PYTHONPATH": os.pathsep.join(entry for entry in import_path() if entry not in standard),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("RAY_ADDRESS", None)
    return environment


def _end(process: subprocess.Popen[str], home: str) -> None:
    """End a process and what it has started, which is told by its environment.

    Once Ray is down, its workers, which end later, descend from nobody here.
    """
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(SECONDS_TO_END)
    process.kill()
    everybody = psutil.process_iter(["environ"])
    rest = [each for each in everybody if (each.info["environ"] or {}).get(HOME) == home]
    _, alive = psutil.wait_procs(rest, timeout=SECONDS_TO_END)
    for each in alive:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(alive, timeout=SECONDS_TO_END)


class _Relay(logging.Handler):
    """Passes on what the library logs."""

    def __init__(self, pass_on: Callable[[str, Any], None]) -> None:
        super().__init__()
        self._pass_on = pass_on

    def emit(self, record: logging.LogRecord) -> None:
        self._pass_on("log", [record.levelno, record.getMessage()])


def main() -> None:
    """Run the apps; pass on the rounds, what is logged, and what is raised."""
    # What Flower and Ray print goes to the log; no process of theirs gets hold of our output.
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def pass_on(kind: str, value: Any) -> None:
        output.write(json.dumps([kind, value]) + "\n")

    LOG.addHandler(_Relay(pass_on))
    settings = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _simulate(lambda record: pass_on("round", record), *settings)
    except BaseException as error:
        pass_on("failure", Failure.of(error))
        raise


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _simulate(
    observer: Observer,
    server: str,
    client: str,
    run_config: dict[str, Any],
    node_config: dict[str, Any],
    nodes: int,
    workers: int,
    gpus_per_worker: float,
    cpus_per_worker: float,
) -> None:
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    app, raised = ServerApp(), []

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        grid.observer = observer  # type: ignore[attr-defined]
        try:
            resolve_name(server)(grid, node_context(SERVER_NODE, nodes, run_config))
        except BaseException as error:
            raised.append(error)
            raise

    backend: Any = {
        "init_args": {
            "num_cpus": math.ceil(workers * cpus_per_worker),
            "include_dashboard": False,
            "log_to_driver": False,
        },
        "client_resources": {"num_cpus": cpus_per_worker, "num_gpus": gpus_per_worker},
    }
    try:
        run_simulation(app, _configured(client, node_config), nodes, backend_config=backend)
    except Exception as error:
        raise (raised[0] if raised else error.__cause__ or error) from None


def _configured(client: str, node_config: Mapping[str, Any]) -> Any:
    """Return a client app whose nodes have a configuration, which Flower's simulation lacks."""
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

    app: ClientApp = resolve_name(client)

    class Configured(ClientApp):
        def __call__(self, message: Message, context: Context) -> Message:
            context.node_config |= node_config
            return app(message, context)

    return Configured()


if __name__ == "__main__":
    main()
