"""SuperLink and SuperNodes over TLS: a run survives what is killed, and strangers stay out."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from experiments.deploy.demo import Demo, end
from fedrec import load
from fedrec.runs.device_run import DeviceRun
from fedrec.runs.folder import ROUNDS

pytestmark = pytest.mark.slow

SECONDS = 300.0
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CONFIG = """
data: {name: synthetic, users: 24, items: 40}
model: {name: mf, embedding_dim: 8}
personalization: {name: plgc}
strategy: fedadam
evaluate: {metrics: [ndcg@5, hit_rate@5, coverage@5, gini@5]}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "synthetic.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(autouse=True)
def nothing_stays_behind(tmp_path: Path) -> Iterator[None]:
    """No process of a test goes on after it."""
    yield
    left = [each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in _line(each)]
    assert left == []


def _line(process: psutil.Process) -> str:
    return " ".join(process.info["cmdline"] or ())


def test_the_demonstration_passes(tmp_path: Path, config: Path, port: int) -> None:
    script = Path(__file__).parents[2] / "experiments" / "deploy" / "demo.py"
    options = ["--devices", "3", "--rounds", "2", "--config", str(config), "--port", str(port)]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "demo"), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\nok: ") == 9


def wait_for(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def started(process: "subprocess.Popen[bytes]", program: str) -> psutil.Process:
    """The process of a program of Flower that a command has started."""
    children = psutil.Process(process.pid).children(recursive=True)
    lines = {child: child.as_dict(["cmdline"])["cmdline"] or () for child in children}
    [found] = [child for child, line in lines.items() if program in line]
    return found


def test_a_run_survives_the_death_of_its_parts(tmp_path: Path, config: Path, port: int) -> None:
    out = tmp_path / "out"
    out.mkdir()
    demo = Demo(out, config, 4, port)
    demo.sets.append("evaluate.every=2")
    demo.run_serial()
    demo.write_files(2)
    server, joined = demo.start(2)
    try:
        log = out / "served" / ROUNDS
        wait_for(lambda: log.exists() and log.read_bytes())
        started(joined[0], "flower-supernode").kill()
        started(server, "flower-superlink").kill()
        wait_for(lambda: log.read_bytes().count(b"\n") >= 2)
        server.kill()  # what it has started ends with it
        server.wait()
        place = ["--resume", "served", "--deployment", "deployment", "--port", port]
        server = demo.fedrec("serve", *place, log="serve.log")
        assert server.wait(SECONDS) == 0, demo.said("serve")
    finally:
        end([server, *joined])
    served, serial = load(out / "served"), load(out / "serial")
    assert served.result["digest"] == serial.result["digest"]
    assert served.result["resumed"]
    assert "goes on" in demo.said("serve")
    user = str(served_user(out))
    assert len(DeviceRun(out / "state-device-0").recommend(user, 3)) == 3


def served_user(out: Path) -> object:
    """A user of the first device."""
    return load(out / "serial").split.user_ids[0]


def test_a_server_that_is_stopped_says_how_to_go_on(
    tmp_path: Path, config: Path, port: int
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    demo = Demo(out, config, 2, port)
    demo.run_serial()
    demo.write_files(1)
    server, joined = demo.start(1)
    try:
        wait_for(lambda: "listening" in demo.said("serve"))
        os.kill(server.pid, signal.SIGTERM)
        assert server.wait(60) == 130
    finally:
        end([server, *joined])
    assert f"continue: fedrec serve --resume {out / 'served'}" in demo.said("serve")


def test_the_guide_can_be_followed_literally(tmp_path: Path, port: int) -> None:
    page = Path(__file__).parents[2] / "docs" / "devices.md"
    blocks = BLOCK.findall(page.read_text(encoding="utf-8").replace("8443", str(port)))
    for language, name, content in blocks:
        if name and language in ("python", "yaml", "ini"):
            (tmp_path / name).write_text(content, encoding="utf-8")
    background: list[subprocess.Popen[bytes]] = []
    outputs = []
    try:
        for _, name, content in (each for each in blocks if each[0] == "bash"):
            program, *arguments = shlex.split(content)
            module = ["-m", "fedrec"] if program == "fedrec" else []
            line = [sys.executable, *module, *arguments]
            if name == "background":
                background.append(subprocess.Popen(line, cwd=tmp_path))
                continue
            if background:  # what follows needs the run to be over
                assert background[0].wait(SECONDS) == 0
            done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (content, done.stderr)
            outputs.append(done.stdout)
    finally:
        end(background)
    assert "The title of film-" in outputs[-2]
    assert outputs[-1].count("The title of film-") == 3
    result = load(tmp_path / "run").result
    assert (result["clients"], result["status"]) == (5, "completed")
