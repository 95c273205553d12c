"""Start Flower's programs, so that they run what is installed here and nothing that is sent.

Flower's SuperLink and SuperNode start further programs, by name: one process for each message. A
server sends its app as an archive of code, which those would unpack and run. On a machine of a
deployment of fedrec the names lead here instead: whatever an archive holds, the app that runs is
the one that is installed. So a device runs no code of the server's, and a server none of whoever
can reach it. Apart from that the programs are Flower's own.
"""

import ipaddress
import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.metadata import entry_points, version
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ParamSpec, TypeVar

import psutil

from fedrec.errors import EngineError, FedRecError
from fedrec.flower.processes import CLIENT, SERVER

CLIENT_APP, SERVER_APP = "flwr-clientapp", "flwr-serverapp"
SUPERLINK, SUPERNODE = "flower-superlink", "flower-supernode"
STARTED_BY_NAME = ("flower-superexec", CLIENT_APP, SERVER_APP)
FLEET = ("/v1/fleet/", "/health")
"""What a SuperLink answers to other machines. All else, such as starting a run or registering a
node, is for this machine alone: Flower asks nobody who he is there."""
PARENT = "FEDREC_PARENT"
"""The process without which a program ends, in its environment."""
PLACE = "FEDREC_PLACE"
"""The folder for which a program was started, in its environment."""
APP_LOG = "FEDREC_APP_LOG"
"""Where apps write what they have to say, in their environment; Flower drops what they print."""

STOP_SECONDS = 5.0
"""How long a program has to end, before it is killed."""

P = ParamSpec("P")
T = TypeVar("T")
LOG = logging.getLogger("fedrec")
Scope = Mapping[str, Any]
Call = Callable[..., Awaitable[Any]]


def command(name: str, *arguments: str) -> list[str]:
    """Return the command line of one of Flower's programs, for this interpreter."""
    return [sys.executable, "-P", "-m", "fedrec.flower.programs", name, *arguments]


def write_programs(folder: Path) -> Path:
    """Write programs of the names that Flower starts into a folder, for the front of ``PATH``.

    Raises:
        EngineError: On Windows, which does not start such programs.
    """
    if sys.platform == "win32":
        raise EngineError("fedrec serve and fedrec join need Linux or macOS")
    folder.mkdir(parents=True, exist_ok=True)
    for name in STARTED_BY_NAME:
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {shlex.join(command(name))} "$@"\n', encoding="utf-8")
        path.chmod(0o755)
    return folder


def end_all(place: Path) -> None:
    """End all programs that were started for a place, gently and then by force.

    Flower's programs start others in sessions of their own, and some outlive who has started them.

    Args:
        place: What `PLACE` says in their environment.
    """
    there = [process for process in psutil.process_iter() if _is_of(process, place)]
    for process in there:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(there, STOP_SECONDS)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, STOP_SECONDS)


def _is_of(process: psutil.Process, place: Path) -> bool:
    try:
        return process.environ().get(PLACE) == str(place)
    except (psutil.Error, OSError):  # it has ended, or is somebody else's
        return False


def main() -> None:
    """Run the program that the first argument names, with the others."""
    name, *arguments = sys.argv[1:]
    sys.argv = [name, *arguments]
    if parent := os.environ.pop(PARENT, ""):
        threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    changes = {CLIENT_APP: _run_installed_client, SERVER_APP: _run_installed_server}
    changes |= {SUPERLINK: _answer_this_machine_alone}
    if name in changes:
        changes[name]()
    [program] = entry_points(group="console_scripts", name=name)
    program.load()()


def _end_with(parent: int) -> None:
    """End this process as at Ctrl-C once the one that started it is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _replace(module: str, **values: Any) -> None:
    """Replace names of a module of Flower's.

    Raises:
        EngineError: If the installed Flower does not have them.
    """
    try:
        changed = import_module(module)
    except ImportError:
        changed = None
    for name, value in values.items():
        if not hasattr(changed, name):
            raise EngineError(
                f"flwr {version('flwr')} does not have {module}.{name} as fedrec needs it; install "
                "a version that fedrec was tested with: pip install 'flwr>=1.41,<1.43'"
            )
        setattr(changed, name, value)


def _log_to_file() -> None:
    """Let what the app logs be read by who has started all this."""
    if path := os.environ.get(APP_LOG):
        log, handler = logging.getLogger("fedrec"), logging.FileHandler(path, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)


def _run_installed_client() -> None:
    _log_to_file()

    def app(*_: Any) -> Any:
        return _named_failures(resolve_name(CLIENT))

    _replace(
        "flwr.supernode.runtime.run_clientapp",
        install_from_fab=lambda *_, **__: None,
        get_load_client_app_fn=lambda *_, **__: app,
    )


def _run_installed_server() -> None:
    _log_to_file()

    def run(grid: Any, context: Any, **_: Any) -> Any:
        _named_failures(resolve_name(SERVER))(grid, context)
        return context

    _replace("flwr.superlink.runtime.run_serverapp", run_=run)


def _named_failures(app: Callable[P, T]) -> Callable[P, T]:
    """Return an app that logs why it fails, in one line."""

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return app(*args, **kwargs)
        except Exception as error:
            kind = "" if isinstance(error, FedRecError) else f"{type(error).__name__}: "
            LOG.error(kind + " ".join(str(error).split()))
            raise

    return call


def _answer_this_machine_alone() -> None:
    from starlette.middleware import Middleware

    _replace("flwr.superlink.extensions", get_middleware=lambda: (Middleware(ThisMachine),))


class ThisMachine:
    """Refuses requests of other machines but for those of nodes.

    Args:
        app: What answers all others.
    """

    def __init__(self, app: Call) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Call, send: Call) -> None:
        """Answer a request of ASGI."""
        if scope["type"] != "http" or scope["path"].startswith(FLEET) or _is_here(scope):
            await self._app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 403, "headers": []})
        await send({"type": "http.response.body", "body": b"from this machine only\n"})


def _is_here(scope: Scope) -> bool:
    """Return whether a request comes from this machine, and through no proxy on it."""
    host, _ = scope.get("client") or ("", 0)
    names = {name.lower() for name, _ in scope["headers"]}
    try:
        return ipaddress.ip_address(host).is_loopback and b"x-forwarded-for" not in names
    except ValueError:
        return False


if __name__ == "__main__":
    main()
