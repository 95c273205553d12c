"""A SuperLink of one's own: over TLS, for nodes that it knows by their keys."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fedrec.errors import ConfigError, EngineError
from fedrec.flower.certificates import AUTHORITY, CERTIFICATE, KEY, NODES
from fedrec.flower.processes import CLIENT, SERVER, engine_variables
from fedrec.flower.programs import (
    APP_LOG,
    PARENT,
    PLACE,
    SUPERLINK,
    command,
    end_all,
    write_programs,
)
from fedrec.storage.files import reading, write_json, write_text

START_SECONDS = 60.0
CONNECTION = "fedrec"
ANY = ("0.0.0.0", "::")
"""Addresses to listen at that nobody can be called at."""

_APP = """\
# Names what is installed here and holds no code of its own.
[project]
name = "fedrec-fleet"
version = "1.0.0"
description = "Runs the apps of the fedrec that is installed"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedrec"

[tool.flwr.app.components]
serverapp = "{server}"
clientapp = "{client}"

[tool.flwr.app.config]
fleet = ""  # the run folder
"""
# Calls Flower's command line several times in one process, which takes a second to start.
_CALLS = """\
import json, sys
from flwr.cli.app import app
for call in json.loads(sys.argv[1]):
    try:
        app(call, standalone_mode=False)
    except SystemExit:
        pass
"""


@dataclass(frozen=True, slots=True)
class NodeKey:
    """A node that a SuperLink knows.

    Args:
        node: The id that it has given to the key.
        key: The name of the public key.
    """

    node: int
    key: str


class SuperLink:
    """Flower's SuperLink; a context manager, which ends it with all that it has started.

    Its database lies in the deployment, so that nodes stay registered between runs.

    Args:
        deployment: The folder of certificates, see `fedrec.flower.certificates`.
        host: The address to listen at.
        port: The port.

    Raises:
        ConfigError: If the deployment has no certificates.
    """

    def __init__(self, deployment: Path, host: str, port: int) -> None:
        self._deployment, self._host, self._port = deployment.absolute(), host, port
        self._folder = self._deployment / "superlink"
        self.log = self._folder / "superlink.log"
        self.app_log = self._folder / "app.log"
        self._process: subprocess.Popen[bytes] | None = None
        for name in (AUTHORITY, CERTIFICATE, KEY):
            if not (deployment / name).is_file():
                raise ConfigError(
                    f"{deployment / name}: is missing; for a trial: fedrec certificates "
                    f"{deployment} --host NAME --nodes N"
                )

    def __enter__(self) -> Self:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # its database has updates
        self._programs = write_programs(self._folder / "programs")
        address = "127.0.0.1" if self._host in ANY else self._host
        authority = json.dumps(str(self._deployment / AUTHORITY))
        write_text(
            self._folder / "config.toml",
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
            f'address = "{address}:{self._port}"\nroot-certificates = {authority}\n',
        )
        app = self._folder / "app"
        app.mkdir(exist_ok=True)
        write_text(app / "pyproject.toml", _APP.format(server=SERVER, client=CLIENT))
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def is_up(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the SuperLink, and wait until it answers.

        Raises:
            EngineError: If it does not.
        """
        self.stop()
        address = "127.0.0.1" if self._host in ANY else self._host
        if _answers(address, self._port):
            raise EngineError(
                f"{self._host}:{self._port}: another program answers there already; end it, or "
                "choose another --port"
            )
        folder = self._deployment
        arguments = command(
            SUPERLINK,
            *("--host", self._host, "--port", str(self._port)),
            *("--ssl-ca-certfile", str(folder / AUTHORITY)),
            *("--ssl-certfile", str(folder / CERTIFICATE), "--ssl-keyfile", str(folder / KEY)),
            "--enable-supernode-auth",
            *("--database", str(self._folder / "state.db")),
            "--disable-runtime-dependency-installation",
        )
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                arguments,
                cwd=self._folder,
                env=self._environment() | {PARENT: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not _answers(address, self._port):
            if not self.is_up or time.monotonic() > deadline:
                self.stop()
                raise EngineError(f"the SuperLink does not start; see {self.log}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End the SuperLink and all that it has started."""
        end_all(self._folder)
        if self._process is not None:
            self._process.wait()
        self._process = None

    def register(self) -> list[NodeKey]:
        """Make the SuperLink know the keys of the deployment, and no others.

        Returns:
            The nodes, in the order of the names of their keys.

        Raises:
            ConfigError: If there are none.
            EngineError: If the SuperLink refuses one.
        """
        path = self._folder / "nodes.json"
        known: dict[str, int] = {}
        if path.exists():
            with reading(path):
                known = json.loads(path.read_text(encoding="utf-8"))
        keys = sorted((self._deployment / NODES).glob("*.pub"))
        if not keys:
            raise ConfigError(f"{self._deployment / NODES}: there are no public keys of nodes")
        gone = sorted(set(known) - {key.name for key in keys})
        for name in gone:
            self._flwr(["supernode", "unregister", str(known.pop(name)), CONNECTION])
        new = [key for key in keys if key.name not in known]
        answers = self._flwr(*(["supernode", "register", str(key), CONNECTION] for key in new))
        for key, answer in zip(new, answers, strict=True):
            known[key.name] = int(answer["node-id"])
            write_json(path, known)
        return [NodeKey(known[key.name], key.name) for key in keys]

    def submit(self, folder: Path) -> str:
        """Start the server's app on a run folder; return the id of Flower's run."""
        place = f"fleet={json.dumps(str(folder.absolute()))}"
        app = str(self._folder / "app")
        return str(self._flwr(["run", app, CONNECTION, "--run-config", place])[0]["run-id"])

    def look(self, run: str) -> tuple[str, Mapping[int, str]]:
        """Return the status of a run, such as ``running``, and of each node, such as ``online``."""
        runs, nodes = self._flwr(["ls", CONNECTION], ["supernode", "list", CONNECTION])
        statuses = {str(each["run-id"]): str(each["status"]) for each in runs["runs"]}
        return statuses.get(run, "unknown"), {
            int(each["node-id"]): str(each["status"]) for each in nodes["nodes"]
        }

    def _environment(self) -> dict[str, str]:
        path = f"{self._programs}{os.pathsep}{os.environ.get('PATH', '')}"
        ours = {"FLWR_HOME": str(self._folder), "PATH": path, APP_LOG: str(self.app_log)}
        return {**os.environ, **engine_variables(), **ours, PLACE: str(self._folder)}

    def _flwr(self, *calls: Sequence[str]) -> list[dict[str, Any]]:
        """Return what Flower's command line answers to some calls.

        Raises:
            EngineError: If one fails.
        """
        if not calls:
            return []
        listed = json.dumps([[*call, "--format", "json"] for call in calls])
        done = subprocess.run(
            [sys.executable, "-P", "-c", _CALLS, listed],
            cwd=self._folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        answers, text, decoder = list[dict[str, Any]](), done.stdout, json.JSONDecoder()
        while "{" in text:
            answer, end = decoder.raw_decode(text := text[text.index("{") :])
            answers.append(answer)
            text = text[end:]
        failed = [each for each in answers if not each.get("success")]
        if failed or len(answers) != len(calls):
            said = failed[0].get("error-message", "") if failed else done.stderr or done.stdout
            text = " ".join(str(said).split())[-300:]
            raise EngineError(f"flwr {' '.join(calls[0][:2])}: {text}; see {self.log}")
        return answers


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True
