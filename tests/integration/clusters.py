"""Ray clusters on this machine: runs that join one, and a node that does not see some folders."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedrec.storage.files import cache_folder

CONFIG = """
data: {name: synthetic, users: 40, items: 60}
model: {name: mf, embedding_dim: 8}
train: {backend: torch}
personalization: {name: plgc}
rounds: {count: 3}
evaluate: {every: 2}
"""

needs_namespaces = pytest.mark.skipif(
    not sys.platform.startswith("linux")
    or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs the permission to make mount namespaces (unshare -m)",
)


def command(folder: Path, name: str, *sets: str, text: str = CONFIG) -> list[str]:
    """Return the command of a run in ``runs/NAME`` of an experiment in ``configs``."""
    config = folder / "configs" / "experiment.yaml"
    config.parent.mkdir(exist_ok=True)
    config.write_text(text, encoding="utf-8")
    out = folder / "runs" / name
    started = [sys.executable, "-m", "fedrec", "run", str(config), "--out", str(out)]
    return [*started, *(f"--set={each}" for each in sets)]


def run_to_end(folder: Path, name: str, *sets: str, text: str = CONFIG) -> dict[str, Any]:
    """Run an experiment; return its result, with what the command said."""
    started = command(folder, name, *sets, text=text)
    done = subprocess.run(started, capture_output=True, text=True, cwd=folder, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return {**result_of(folder / "runs" / name), "said": done.stderr}


def result_of(run: Path) -> dict[str, Any]:
    """Return the result in a run folder."""
    result: dict[str, Any] = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return result


def await_rounds(process: subprocess.Popen[str], rounds: Path, count: int) -> None:
    """Wait until a run log has some rounds, or the process has ended."""
    while process.poll() is None:
        if rounds.exists() and rounds.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.02)


@contextmanager
def hidden_node(
    cluster: Any,
    hidden: Sequence[Path],
    log: Path,
    kernels: bool = False,
    variables: Mapping[str, str] | None = None,
) -> Iterator[psutil.Process]:
    """Run a Ray node of one core in a mount namespace with empty folders in place of some.

    Args:
        cluster: A `ray.cluster_utils.Cluster`, which it joins.
        hidden: The folders, which must exist.
        log: For what the node prints.
        kernels: Leave the node the compiled kernels in the cache: they are of this machine.
        variables: Of its environment.
    """
    copied = log.with_name("kernels")
    commands = [f"mount -t tmpfs none {shlex.quote(str(each))}" for each in hidden]
    if kernels:
        paths = [shlex.quote(str(path)) for path in (cache_folder() / "numba", copied)]
        commands.insert(0, f"cp -a {paths[0]} {paths[1]}")
        commands.append(f"cp -a {paths[1]} {paths[0]}")
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
    start += [f"--address={cluster.address}", "--object-store-memory=100000000"]
    commands.append(f"exec {shlex.join(start)}")
    nodes = alive(cluster)
    with log.open("w") as file:
        process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", " && ".join(commands)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **(variables or {})},
        )
    node = psutil.Process(process.pid)
    try:
        deadline = time.monotonic() + 60
        while alive(cluster) == nodes:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield node
    finally:
        kill(node)
        process.wait()
        deadline = time.monotonic() + 60
        while alive(cluster) > nodes and time.monotonic() < deadline:
            time.sleep(0.2)


def alive(cluster: Any) -> int:
    """Return how many nodes a cluster has."""
    return sum(node["Alive"] for node in cluster.global_state.node_table())


def kill(node: psutil.Process) -> None:
    """Kill a node with all of its processes."""
    if node.is_running():
        for each in [node, *node.children(recursive=True)]:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
