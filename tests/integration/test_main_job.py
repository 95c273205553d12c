"""The main job on its real data: one digest from every engine, and from every way to cut it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrec
from fedrec.config.experiment import load_experiment

pytestmark = pytest.mark.slow

ROUNDS = 3


def run(config: Path, out: Path, *sets: str) -> dict[str, Any]:
    """A few rounds of the shipped experiment, through the library's front door."""
    short = [f"rounds.count={ROUNDS}", "evaluate.every=2", *sets]
    return fedrec.run(load_experiment(config, short), out=out).result


@pytest.fixture(scope="module")
def plgc(root: Path, ml100k: Path) -> Path:
    return root / "experiments" / "ml-100k" / "plgc-mf.yaml"


@pytest.fixture(scope="module")
def serial(plgc: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(plgc, tmp_path_factory.mktemp("main") / "serial", "engine.name=serial")


def test_the_result_says_what_the_documents_promise(serial: dict[str, Any]) -> None:
    for key in ("digest", "best_round", "clients_per_second", "protocol"):
        assert serial[key] is not None
    assert serial["protocol"] == "clean"
    assert set(serial["seconds"]) == {"train", "evaluate", "total"}
    assert set(serial["bytes"]) == {"up", "down"}
    assert set(serial["metrics"]["views"]) == {"global", "local"}
    for values in (serial["metrics"]["test"], serial["metrics"]["valid"]):
        assert {"ndcg@10", "hit_rate@10"} <= set(values)
    assert serial["users"] == serial["clients"] == 943
    assert serial["items"] == 1682


def test_a_second_run_and_another_cut_change_no_bit(
    plgc: Path, serial: dict[str, Any], tmp_path: Path
) -> None:
    again = run(plgc, tmp_path / "again", "engine.name=serial", "engine.nodes=5", "engine.chunk=7")
    assert again["digest"] == serial["digest"]
    assert again["metrics"] == serial["metrics"]


def test_another_seed_is_another_run(plgc: Path, serial: dict[str, Any], tmp_path: Path) -> None:
    other = run(plgc, tmp_path / "other", "engine.name=serial", "seed=1", "rounds.count=1")
    assert other["digest"] != serial["digest"]


@pytest.mark.parametrize("engine", ["ray", "flower"])
def test_every_engine_gives_the_same_bits(
    plgc: Path, serial: dict[str, Any], tmp_path: Path, engine: str
) -> None:
    pytest.importorskip("ray", reason="needs the extra 'sim'")
    other = run(plgc, tmp_path / engine, f"engine.name={engine}", "engine.workers=2")
    assert other["digest"] == serial["digest"]
    assert other["metrics"] == serial["metrics"]
    rows = [
        np.load(tmp_path / engine / "state" / f"node-{node:03d}" / "user.npy") for node in (0, 1)
    ]
    assert sum(len(each) for each in rows) == 943


def test_the_command_line_runs_and_recommends(plgc: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "fedrec", "run", str(plgc), "--engine", "serial"]
    sets = ["--set", f"rounds.count={ROUNDS}", "--out", str(out)]
    subprocess.run([*command, *sets], check=True, capture_output=True)
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert result["rounds"] == ROUNDS
    asked = [sys.executable, "-m", "fedrec", "recommend", str(out), "--user", "42", "--k", "3"]
    said = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    assert "(19" in said  # titles of MovieLens end with their year
