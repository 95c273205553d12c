"""A real Ray cluster of two nodes on this machine, joined by its address."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs the extra 'sim'")
from ray.cluster_utils import Cluster

from tests.integration.clusters import await_rounds, command, run_to_end

pytestmark = pytest.mark.slow


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


def test_two_ray_nodes_give_the_digest_of_one_process(cluster: Any, tmp_path: Path) -> None:
    """One worker on each node of the cluster."""
    alone = run_to_end(tmp_path, "alone", "engine.name=serial")
    sets = ("engine.name=ray", f"engine.address={cluster.address}", "engine.workers=2")
    joined = run_to_end(tmp_path, "joined", *sets)
    assert joined["digest"] == alone["digest"]
    assert joined["metrics"] == alone["metrics"]
    assert joined["engine"]["workers"] == 2


def test_a_node_that_leaves_is_named_and_the_run_can_go_on_elsewhere(
    cluster: Any, tmp_path: Path
) -> None:
    """Each node has a core for one worker, so nobody takes the place of the one that leaves."""
    leaving = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    cluster.wait_for_nodes()
    out = tmp_path / "runs" / "left"
    sets = ("engine.name=ray", f"engine.address={cluster.address}", "engine.workers=3")
    started = command(tmp_path, "left", *sets, "rounds.count=2000", "engine.start_timeout=11")
    process = subprocess.Popen(started, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    rounds = out / "rounds.jsonl"
    await_rounds(process, rounds, 1)
    cluster.remove_node(leaving)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert "did not start within engine.start_timeout (11 s)" in errors
    assert " cores are free" in errors
    resumed = [sys.executable, "-m", "fedrec", "run", "--resume", str(out), "--engine", "serial"]
    resumed += ["--set", f"rounds.count={len(rounds.read_text().splitlines()) + 2}"]
    done = subprocess.run(resumed, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_more_workers_than_the_cluster_has_cores_are_refused(cluster: Any, tmp_path: Path) -> None:
    """The error says how many cores there are; the cluster was left running by the run before."""
    with pytest.raises(AssertionError, match="cores"):
        sets = ("engine.name=ray", f"engine.address={cluster.address}", "engine.workers=3")
        run_to_end(tmp_path, "many", *sets, "engine.nodes=3")
