"""A real Ray cluster of two nodes on this machine, joined by its address."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs the extra 'sim'")
from ray.cluster_utils import Cluster

pytestmark = pytest.mark.slow

CONFIG = """
data: {name: synthetic, users: 40, items: 60}
model: {name: mf, embedding_dim: 8}
train: {backend: torch}
personalization: {name: plgc}
rounds: {count: 3}
evaluate: {every: 2}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core each: two workers fit on no single one."""
    quiet = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=quiet)
    try:
        started.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        started.wait_for_nodes()
        yield started
    finally:
        started.shutdown()  # type: ignore[no-untyped-call]


def _run(folder: Path, name: str, *sets: str) -> dict[str, Any]:
    config = folder / "experiment.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    out = folder / name
    command = [sys.executable, "-m", "fedrec", "run", str(config), "--out", str(out)]
    for assignment in sets:
        command += ["--set", assignment]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return result


def test_two_ray_nodes_give_the_digest_of_one_process(cluster: Any, tmp_path: Path) -> None:
    """One worker on each node of the cluster."""
    alone = _run(tmp_path, "alone", "engine.name=serial")
    sets = ("engine.name=ray", f"engine.address={cluster.address}", "engine.workers=2")
    joined = _run(tmp_path, "joined", *sets)
    assert joined["digest"] == alone["digest"]
    assert joined["metrics"] == alone["metrics"]
    assert joined["engine"]["workers"] == 2


def test_a_node_that_leaves_is_named_and_the_run_can_go_on_elsewhere(
    cluster: Any, tmp_path: Path
) -> None:
    """Each node has a core for one worker, so nobody takes the place of the one that leaves."""
    leaving = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    cluster.wait_for_nodes()
    config, out = tmp_path / "experiment.yaml", tmp_path / "left"
    config.write_text(CONFIG.replace("count: 3", "count: 2000"), encoding="utf-8")
    sets = ("engine.name=ray", f"engine.address={cluster.address}", "engine.workers=3")
    command = [sys.executable, "-m", "fedrec", "run", str(config), "--out", str(out)]
    command += [f"--set={each}" for each in (*sets, "engine.start_timeout=11")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    rounds = out / "rounds.jsonl"
    while process.poll() is None and not (rounds.exists() and rounds.stat().st_size):
        time.sleep(0.1)
    cluster.remove_node(leaving)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert "did not start within engine.start_timeout (11 s)" in errors
    assert " cores are free" in errors
    command = [sys.executable, "-m", "fedrec", "run", "--resume", str(out), "--engine", "serial"]
    command += ["--set", f"rounds.count={len(rounds.read_text().splitlines()) + 2}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_more_workers_than_the_cluster_has_cores_are_refused(cluster: Any, tmp_path: Path) -> None:
    """The error says how many cores there are; the cluster was left running by the run before."""
    with pytest.raises(AssertionError, match="cores"):
        sets = ("engine.name=ray", f"engine.address={cluster.address}", "engine.workers=3")
        _run(tmp_path, "many", *sets, "engine.nodes=3")
