"""A deployment runs what is installed, and other machines may ask little of it."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedrec.errors import EngineError
from fedrec.flower import programs
from fedrec.flower.followed import FollowedFile
from fedrec.flower.programs import ThisMachine, command, write_programs


async def _ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})


async def _answer(scope: Mapping[str, Any], send: Any) -> None:
    await ThisMachine(_ok)(scope, _nothing, send)


async def _nothing() -> None:
    """Receives nothing."""


def status(path: str, host: str, headers: Mapping[bytes, bytes] | None = None) -> int:
    """The status with which a request is answered."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "path": path,
        "client": (host, 1),
        "headers": list((headers or {}).items()),
    }
    asyncio.run(_answer(scope, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize("path", ["/v1/control/start-run", "/v1/runtime/pull-messages", "/docs"])
def test_other_machines_start_no_runs_and_register_no_nodes(path: str) -> None:
    assert status(path, "10.0.0.7") == 403
    assert status(path, "127.0.0.1") == status(path, "::1") == 200
    assert status(path, "127.0.0.1", {b"X-Forwarded-For": b"10.0.0.7"}) == 403
    assert status(path, "") == 403


def test_nodes_are_answered_wherever_they_are() -> None:
    assert status("/v1/fleet/pull-messages", "10.0.0.7") == 200


def test_a_path_that_only_looks_like_the_nodes_is_none() -> None:
    assert status("/v1/fleetx", "10.0.0.7") == 403
    assert status("/v1/control/v1/fleet/", "10.0.0.7") == 403


def test_the_names_that_are_replaced_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("flwr.supernode.runtime.run_clientapp")
    server = pytest.importorskip("flwr.superlink.runtime.run_serverapp")
    extensions = pytest.importorskip("flwr.superlink.extensions")
    for module, names in (
        (client, ("install_from_fab", "get_load_client_app_fn")),
        (server, ("run_",)),
        (extensions, ("get_middleware",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name))  # put back at the end
    programs._run_installed_client()
    programs._run_installed_server()
    programs._answer_this_machine_alone()
    from clients.app import app

    load: Any = client.get_load_client_app_fn("", None, True)
    called = load("someone/else", "1.0.0", "0" * 64)
    assert called.__closure__[0].cell_contents is app
    assert client.install_from_fab(b"code of a server", skip_prompt=True) is None


def test_another_flower_is_refused() -> None:
    with pytest.raises(EngineError, match=r"does not have flwr\.nowhere\.name"):
        programs._replace("flwr.nowhere", name=None)
    with pytest.raises(EngineError, match=r"does not have flwr\.app\.no_such_name"):
        programs._replace("flwr.app", no_such_name=None)


def test_the_programs_are_found_by_their_names(tmp_path: Path) -> None:
    folder = write_programs(tmp_path / "programs with a space")
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    for name in ("flower-superexec", "flwr-clientapp", "flwr-serverapp"):
        done = subprocess.run(
            [name, "--help"], env=environment, capture_output=True, text=True, check=True
        )
        assert name in done.stdout or "usage" in done.stdout


def test_a_program_ends_with_who_has_started_it() -> None:
    program = command("flower-superexec", "--runtime-api-address", "127.0.0.1:1", "--insecure")
    code = f"""
import os, subprocess, time
os.environ["{programs.PARENT}"] = str(os.getpid())
print(subprocess.Popen({program!r}, stdout=-3, stderr=-3).pid, flush=True)
time.sleep(3)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    process = psutil.Process(int(done.stdout))
    try:
        process.wait(20)
    finally:
        if process.is_running():
            process.kill()


def test_all_of_a_place_is_ended_by_force_where_it_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "STOP_SECONDS", 0.5)
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"
    stubborn += "; time.sleep(60)"
    started = []
    for place in (tmp_path / "one", tmp_path / "one", tmp_path / "other"):
        environment = {**os.environ, programs.PLACE: str(place)}
        line = [sys.executable, "-c", stubborn]
        started.append(
            subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, start_new_session=True)
        )
    for process in started:
        assert process.stdout is not None and process.stdout.readline()
    try:
        programs.end_all(tmp_path / "one")
        assert [psutil.pid_exists(process.pid) for process in started] == [False, False, True]
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_lines_of_a_file_are_followed_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    followed = FollowedFile(path)
    assert [*followed.lines()] == []
    with path.open("a") as file:
        file.write("one\nhal")
    assert [*followed.lines()] == ["one"]
    with path.open("a") as file:
        file.write("f\n")
    assert [*followed.lines()] == ["half"]
    assert [*FollowedFile(tmp_path / "none").lines()] == []
