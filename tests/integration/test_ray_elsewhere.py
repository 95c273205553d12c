"""A Ray node that sees neither the run folder nor data nor code of the driver."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs the extra 'sim'")
from ray.cluster_utils import Cluster

from fedrec.flower.processes import ROOT
from fedrec.flower.shipped_code import PACKAGES
from fedrec.storage.files import cache_folder
from tests.integration.clusters import (
    CONFIG,
    await_rounds,
    command,
    hidden_node,
    kill,
    needs_namespaces,
    result_of,
    run_to_end,
)

pytestmark = [pytest.mark.slow, needs_namespaces]

OWN_MODEL = """
from fedrec.models.mf import MatrixFactorization


class OwnModel(MatrixFactorization):
    pass
"""
ALONE = ("engine.name=serial", "engine.nodes=2")


@pytest.fixture(scope="module")
def head() -> Iterator[Any]:
    """A cluster of one node with two cores: one for the worker of a node that dies."""
    about = {"num_cpus": 2, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=about)
    try:
        yield started
    finally:
        started.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With folders of its own for runs, the cache and what workers put on the machine."""
    if (kernels := cache_folder() / "numba").is_dir():  # to compile takes half a minute
        shutil.copytree(kernels, tmp_path / "cache" / "numba")
    for name in ("runs", "cache/numba", "tmp"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return tmp_path


def sets(head: Any, *more: str) -> tuple[str, ...]:
    return "engine.name=ray", f"engine.address={head.address}", "engine.workers=2", *more


def test_a_node_without_folder_data_and_code_gives_the_digest(head: Any, folder: Path) -> None:
    """It gets them through Ray, with an own model's file; the run folder is complete."""
    (folder / "configs").mkdir()
    (folder / "configs" / "own.py").write_text(OWN_MODEL)
    text = CONFIG.replace("{name: mf,", "{name: own:OwnModel,")
    alone = run_to_end(folder, "alone", *ALONE, text=text)
    hidden = [folder / name for name in ("runs", "cache", "configs")]
    hidden += [ROOT / name for name in PACKAGES]
    with hidden_node(head, hidden, folder / "node.log"):
        joined = run_to_end(folder, "joined", *sets(head), text=text)
    assert "lacks the run folder and the data and the code of this machine" in joined["said"]
    assert joined["digest"] == alone["digest"]
    assert joined["metrics"] == alone["metrics"]
    assert joined["files"].keys() == alone["files"].keys()
    assert not [*(folder / "tmp").glob("fedrec-*/*")]
    run = folder / "runs" / "joined"
    assert not [*run.glob(".*")]
    longer = [sys.executable, "-m", "fedrec", "run", "--resume", str(run), "--engine", "serial"]
    done = subprocess.run(
        [*longer, "--set=rounds.count=5"], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    expected = run_to_end(folder, "longer", *ALONE, "rounds.count=5", text=text)
    assert result_of(run)["digest"] == expected["digest"]


def test_a_node_killed_in_the_middle_takes_nothing_with_it(head: Any, folder: Path) -> None:
    alone = run_to_end(folder, "alone", *ALONE, "rounds.count=40")
    assert dies_after(10, head, folder, [], "rounds.count=40") == alone["digest"]


def test_plgc_on_movielens_with_a_node_killed_in_round_10(head: Any, folder: Path) -> None:
    if not (data := os.environ.get("FEDREC_DATA")):
        pytest.skip("needs FEDREC_DATA, the folder of data sets")
    text = (ROOT / "experiments" / "ml-100k" / "plgc-mf.yaml").read_text(encoding="utf-8")
    more = ("rounds.count=20",)
    alone = run_to_end(folder, "alone", *ALONE, *more, text=text)
    assert dies_after(9, head, folder, [Path(data)], *more, text=text) == alone["digest"]


def dies_after(
    rounds: int, head: Any, folder: Path, hidden: list[Path], *more: str, text: str = CONFIG
) -> Any:
    """Return the digest of a run whose second node is killed after some rounds."""
    run = folder / "runs" / "died"
    started = command(folder, "died", *sets(head, *more), text=text)
    hidden = [folder / "runs", folder / "cache", *hidden]
    # Workers take what the driver's environment says.
    other = {"OPENBLAS_CORETYPE": "Sandybridge", "ATEN_CPU_CAPABILITY": "default"}
    with hidden_node(head, hidden, folder / "node.log", True, other) as node:
        process = subprocess.Popen(started, stderr=subprocess.PIPE, text=True, cwd=folder)
        await_rounds(process, run / "rounds.jsonl", rounds)
        kill(node)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert "lacks the run folder and the data of this machine" in said
    assert "it is replaced, and its clients are done again" in said
    assert "machine code" not in said
    return result_of(run)["digest"]
