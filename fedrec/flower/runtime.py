"""The Flower engine: the apps under Flower's own simulation runtime, by ``flwr run``.

Everything Flower writes goes into a folder that is removed at the end: its home, its log and a
small app that refers to the installed packages. The SuperLink runs from an empty folder, because
Flower's workers import from its working folder before anything else.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrec.errors import EngineError, FedRecError
from fedrec.flower.failures import Failure
from fedrec.flower.grid import Observer
from fedrec.flower.processes import end_marked, marked_processes
from fedrec.flower.reported import REPORT_VARIABLE
from fedrec.flower.telemetry import quiet_environment

__all__ = ["run_on_flower"]

PACKAGE = "fedrec_flower_run"
LINES_OF_LOG = 40
PAUSE = 0.1
LONGEST_PAUSE = 10.0
SECONDS_TO_LISTEN = 60.0
SECONDS_TO_START = 300.0
SECONDS_TO_STOP = 10.0


def run_on_flower(
    server: str,
    client: str,
    run_config: Mapping[str, str],
    nodes: int,
    workers: int,
    observer: Observer | None = None,
    *,
    gpus_per_worker: float = 0.0,
    timeout: float | None = None,
) -> None:
    """Run the apps and wait for the end; nothing of Flower's stays behind.

    Args:
        server: Reference of the server app, ``module:attribute``.
        client: Reference of the client app.
        run_config: The run's configuration; ``out`` names the run folder.
        nodes: How many simulated SuperNodes.
        workers: How many Ray actors.
        observer: Is called with each line of ``rounds.jsonl`` as it is written.
        gpus_per_worker: Share of a GPU that each actor reserves.
        timeout: Seconds until the run is given up; None waits.

    Raises:
        EngineError: If the run fails, does not start or takes too long.
        FedRecError: What the server app raised, if it is fedrec's own.
    """
    with tempfile.TemporaryDirectory(prefix="fedrec-flower-", ignore_cleanup_errors=True) as folder:
        session = _Session(Path(folder), _free_port())
        session.prepare(server, client, run_config)
        rounds = _Tail(Path(run_config["out"]) / "rounds.jsonl", observer)
        link = session.start_superlink()
        try:
            session.await_superlink(link)
            run_id = session.submit(nodes, workers, gpus_per_worker)
            _follow(session, link, run_id, rounds, timeout)
        finally:
            session.stop(link)


def _follow(
    session: _Session,
    link: subprocess.Popen[bytes],
    run_id: str,
    rounds: _Tail,
    timeout: float | None,
) -> None:
    began = time.monotonic()
    pause, asked = 1.0, began
    while True:
        time.sleep(PAUSE)
        rounds.read()
        report, now = session.report(), time.monotonic()
        if link.poll() is not None:
            raise session.error("Flower's SuperLink ended unexpectedly")
        if timeout is not None and now - began > timeout:
            raise EngineError(f"the run took longer than {timeout:g} seconds and was stopped")
        if report == "" and now - began > SECONDS_TO_START:
            raise session.error(f"Flower did not start the run in {SECONDS_TO_START:g} seconds")
        if report.startswith("{"):
            raise Failure.from_json(report).error("server app")
        if report == "completed" or now - asked > pause:
            status, details = session.status(run_id)
            asked, pause = time.monotonic(), min(pause * 1.5, LONGEST_PAUSE)
            if status == "finished:completed":
                rounds.read()
                return
            if status.startswith("finished:"):
                report = session.report()
                if report.startswith("{"):
                    raise Failure.from_json(report).error("server app")
                raise session.error(f"the Flower run {status}: {details}", run_id)


@dataclass(frozen=True, slots=True)
class _Session:
    """A Flower of one's own.

    Args:
        folder: holds everything.
        port: on which the SuperLink listens.
    """

    folder: Path
    port: int

    @property
    def marker(self) -> str:
        return f"FLWR_HOME={self.folder / 'home'}"

    def environment(self) -> dict[str, str]:
        standard = set(sysconfig.get_paths().values())
        path = [str(Path(entry or ".").resolve()) for entry in sys.path]
        environment = {
            **os.environ,
            **quiet_environment(),
            "FLWR_HOME": str(self.folder / "home"),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
            "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]),
            "PYTHONPATH": os.pathsep.join(entry for entry in path if entry not in standard),
            "OMP_NUM_THREADS": "1",
            REPORT_VARIABLE: str(self.folder / "report"),
        }
        environment.pop("RAY_ADDRESS", None)
        return environment

    def prepare(self, server: str, client: str, run_config: Mapping[str, str]) -> None:
        package = self.folder / "app" / PACKAGE
        for folder in (package, self.folder / "home", self.folder / "empty"):
            folder.mkdir(parents=True)
        entries = "\n".join(f"{key} = {json.dumps(value)}" for key, value in run_config.items())
        (self.folder / "app" / "pyproject.toml").write_text(
            '[project]\nname = "fedrec-run"\nversion = "1.0.0"\ndescription = "a run"\n'
            'license = "Apache-2.0"\ndependencies = []\n\n'
            '[tool.flwr.app]\npublisher = "fedrec"\n\n'
            f'[tool.flwr.app.components]\nserverapp = "{PACKAGE}.server:app"\n'
            f'clientapp = "{PACKAGE}.client:app"\n\n[tool.flwr.app.config]\n{entries}\n',
            encoding="utf-8",
        )
        (package / "__init__.py").write_text("", encoding="utf-8")
        (package / "server.py").write_text(
            "from fedrec.flower.reported import reported_server\n\n"
            f"app = reported_server({server!r})\n",
            encoding="utf-8",
        )
        (package / "client.py").write_text(
            "from fedrec.flower.references import load_app\n\n"
            f'app = load_app({client!r}, "ClientApp")\n',
            encoding="utf-8",
        )
        (self.folder / "home" / "config.toml").write_text(
            '[superlink]\ndefault = "fedrec"\n\n[superlink.fedrec]\n'
            f'address = "127.0.0.1:{self.port}"\ninsecure = true\n',
            encoding="utf-8",
        )

    def start_superlink(self) -> subprocess.Popen[bytes]:
        command = [self._program("flower-superlink"), "--insecure", "--simulation"]
        command += ["--isolation", "subprocess", "--host", "127.0.0.1", "--port", str(self.port)]
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(
                command,
                cwd=self.folder / "empty",
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def await_superlink(self, link: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + SECONDS_TO_LISTEN
        while not self._listens():
            if link.poll() is not None or time.monotonic() > deadline:
                raise self.error(f"Flower's SuperLink does not listen on port {self.port}")
            time.sleep(PAUSE)

    def submit(self, nodes: int, workers: int, gpus_per_worker: float) -> str:
        federation = (
            f"num-supernodes={nodes} client-resources-num-cpus=1 init-args-num-cpus={workers} "
            f"client-resources-num-gpus={float(gpus_per_worker)} init-args-log-to-driver=false"
        )
        answer = self._flwr("run", str(self.folder / "app"), "--federation-config", federation)
        if not answer.get("success"):
            raise self.error(f"Flower refused the run: {answer.get('error-message', '')}")
        return str(answer["run-id"])

    def status(self, run_id: str) -> tuple[str, str]:
        answer = self._flwr("ls", "--run-id", run_id)
        runs = answer.get("runs") or [{}]
        return str(runs[0].get("status", "unknown")), str(runs[0].get("status-details", ""))

    def report(self) -> str:
        try:
            return (self.folder / "report").read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def error(self, message: str, run_id: str | None = None) -> FedRecError:
        error = EngineError(" ".join(message.split()))
        log = (self.folder / "log").read_text(encoding="utf-8", errors="replace")
        if run_id is not None:
            log = self._call("log", run_id, "--show").stdout or log
        error.add_note("Flower's log ends with:\n" + "\n".join(log.splitlines()[-LINES_OF_LOG:]))
        return error

    def stop(self, link: subprocess.Popen[bytes]) -> None:
        known = marked_processes(self.marker)
        link.terminate()
        try:
            link.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            link.kill()
            link.wait()
        end_marked(self.marker, known)

    def _listens(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def _flwr(self, *arguments: str) -> dict[str, Any]:
        done = self._call(*arguments, "--format", "json")
        start = done.stdout.find("{")
        try:
            answer: dict[str, Any] = json.loads(done.stdout[start:] if start >= 0 else "")
        except json.JSONDecodeError as error:
            raise self.error(
                f"'flwr {arguments[0]}' failed: {done.stderr.strip() or done.stdout.strip()}"
            ) from error
        return answer

    def _call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._program("flwr"), *arguments],
            cwd=self.folder / "empty",
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    def _program(self, name: str) -> str:
        found = shutil.which(name, path=self.environment()["PATH"])
        if found is None:
            raise EngineError(
                f"the program '{name}' of Flower is not found; run: pip install 'fedrec[sim]'"
            )
        return found


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
        whole = new[: new.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in whole.splitlines():
            self._observer(json.loads(line))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
