"""Runs that share a Ray: in threads, one after the other, with the user's, and when it is busy."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra 'sim'")

pytestmark = pytest.mark.slow

TOYS = Path(__file__).parent / "engines"

SCRIPT = """
import sys, threading, time
from pathlib import Path
import ray
from fedrec.config.engine import Engine
from fedrec.errors import EngineError
from fedrec.flower.launch import launch

ended = {}

def run(label, experiment="toy", **engine):
    out = Path(label)
    config = {"out": str(out.resolve()), "split": "2", "experiment": experiment}
    try:
        launch(
            Engine(**{"name": "ray", "workers": 1, "nodes": 2, **engine}),
            config,
            server="toy_apps:server",
            client="toy_apps:client",
        )
        ended[label] = (out / "digest").read_text()[:8]
    except Exception as error:
        ended[label] = f"{type(error).__name__}: {error}"

def together(*runs):
    threads = [threading.Thread(target=run, args=a, kwargs=k) for a, k in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def script(body: str, folder: Path, **environment: str) -> list[str]:
    """Run a script in a process of its own, and return what it prints."""
    path = folder / "script.py"
    path.write_text(SCRIPT + body, encoding="utf-8")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(path)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(root), str(TOYS)]),
            "PYTHONWARNINGS": "ignore",
            **environment,
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [*done.stdout.splitlines(), "", *done.stderr.splitlines()]


def test_runs_in_threads_neither_wait_for_nor_end_each_other(tmp_path: Path) -> None:
    """At the same moment, then one that fails meanwhile, then one after the other."""
    lines = script(
        'run("alone", name="serial")\n'
        'together((("a",), {}), (("b",), {"workers": 2}), (("broken", "break"), {}))\n'
        "print(ray.is_initialized())\n"
        'run("c"); run("d")\n'
        "print(ray.is_initialized())\n"
        'for name in ("alone", "a", "b", "c", "d", "broken"): print(ended[name])\n',
        tmp_path,
    )
    assert lines[:2] == ["False", "False"]
    alone, *others = lines[2:7]
    assert len(alone) == 8
    assert others == [alone] * 4
    assert "the toy divided by zero" in lines[7]


BUSY = (
    "ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)\n"
    "@ray.remote(num_cpus=1)\n"
    "class Holder:\n"
    "    def ready(self): return True\n"
    "holder = Holder.remote(); ray.get(holder.ready.remote())\n"
)


def test_an_interrupt_while_it_waits_for_a_core(tmp_path: Path) -> None:
    lines = script(
        BUSY + "import os, signal\n"
        "threading.Timer(3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "try:\n"
        '    run("waits")\n'
        "except KeyboardInterrupt:\n"
        "    print('stopped', ray.is_initialized(), ended)\n",
        tmp_path,
    )
    assert lines[0] == "stopped True {}"


def test_a_busy_ray_of_the_users_is_named_then_given_up_and_left_running(tmp_path: Path) -> None:
    lines = script(
        BUSY + 'run("busy", start_timeout=13)\n'
        'run("many", workers=2)\n'
        'run("elsewhere", address="127.0.0.1:1")\n'
        "ray.kill(holder)\n"
        'run("free")\n'
        "print(ray.is_initialized(), len(ended['free']))\n"
        "for name in ('busy', 'many', 'elsewhere'): print(ended[name])\n",
        tmp_path,
    )
    assert lines[0] == "True 8"
    assert "worker 0 did not start within engine.start_timeout (13 s)" in lines[1]
    for line in (lines[1], next(line for line in lines if line.startswith("waiting for"))):
        assert "it asks for 1 CPU; Ray: 0 of 1 cores are free; actors that run: Holder" in line
    assert "engine.workers: 2 workers need 2 cores, but Ray has 1" in lines[2]
    assert "engine.address: 127.0.0.1:1, but this process uses the Ray at" in lines[3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_forked_from_one_that_uses_ray_says_what_to_do(tmp_path: Path) -> None:
    lines = script(
        "import os\n"
        "from fedrec.flower import ray_session\n"
        "ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)\n"
        "if (pid := os.fork()) == 0:\n"
        '    run("forked"); print(ended["forked"], flush=True); os._exit(0)\n'
        "os.waitpid(pid, 0)\n"
        'run("parent"); print(len(ended["parent"]))\n',
        tmp_path,
    )
    assert lines[0].startswith("EngineError: this process was forked from one that uses Ray")
    assert lines[1] == "8"


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        port: int = server.getsockname()[1]
        yield port
        for connection in held:
            connection.close()


def test_an_address_that_answers_nothing_is_given_up(silent: int, tmp_path: Path) -> None:
    began = time.monotonic()
    lines = script(
        f'run("silent", address="127.0.0.1:{silent}")\nprint(ended["silent"])\n', tmp_path
    )
    assert f"Ray does not start at 127.0.0.1:{silent}" in lines[0]
    assert "nothing there answers like Ray within 10 s" in lines[0]
    assert time.monotonic() - began < 120


def test_no_proxy_is_asked_for_this_machine(tmp_path: Path) -> None:
    names = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
    proxies = {n: "http://127.0.0.1:9" for name in names for n in (name, name.upper())}
    body = (
        "import os\n"
        "def environment():\n"
        "    theirs = 'PYTHONBREAKPOINT', 'GRPC_VERBOSITY'  # of Ray and Flower\n"
        "    return {k: v for k, v in os.environ.items() if k not in theirs}\n"
        "before = environment()\n"
        'run("proxied")\nprint(len(ended["proxied"]), environment() == before)\n'
    )
    assert script(body, tmp_path, **proxies)[0] == "8 True"
