"""A run does not go on as something else than it was; what differs is said, and what to do."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrec
from fedrec.errors import ConfigError, RunFolderError
from fedrec.storage.files import hold, read_arrays, write_arrays
from tests.integration.stopped_runs import go, go_on, outcome, stopped


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopped(tmp_path_factory.mktemp("stopped_run") / "run", 2)


@pytest.fixture
def folder(stopped_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped_run, tmp_path / "run"))


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["seed=3"], r"with --set: is not what was run: seed is 3, was 0; .*--out"),
        (
            ["train.optimizers.item.lr=0.5", "model.embedding_dim=4"],
            r"embedding_dim is 4, was 8; train.optimizers.item",
        ),
        (
            ["strategy={name: fedavg}"],
            r"run: strategy.name is 'fedavg', was 'fedadam'; strategy.server_optimizer.name is",
        ),
        (["evaluate.every=1"], r"evaluate.every is 1, was 2"),
        (["rounds.cohort_fraction=0.4"], r"rounds.cohort_fraction is 0.4, was 0.5"),
        (["data.users=25"], r"data.users is 25, was 24"),
        (["engine.nodes=3"], r"engine.nodes: 3, but the local state lies on 2 nodes; write 2"),
        (["rounds.count=1"], r"rounds.count: 1 is less than the 2 rounds that were run already"),
        (["rounds.cuont=1"], r"did you mean 'count'"),
    ],
    ids=str,
)
def test_another_experiment_is_refused(sets: list[str], said: str, folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=said) as caught:
        go_on(folder, *sets)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_an_edited_config_is_refused(folder: Path) -> None:
    config = folder / "config.yaml"
    config.write_text(
        config.read_text("utf-8").replace("      lr: 0.1", "      lr: 0.3", 1), "utf-8"
    )
    with pytest.raises(ConfigError, match=r"config\.yaml: is not .*item\.lr is 0\.3, was 0\.1"):
        go_on(folder)


def changed(folder: Path, **origin: str) -> None:
    """Write into the checkpoint that the run was begun with something else."""
    path = folder / "checkpoint.safetensors"
    arrays, metadata = read_arrays(path)
    about = json.loads(metadata["checkpoint"])
    about["origin"] |= origin
    write_arrays(path, arrays, {"checkpoint": json.dumps(about)})


def test_other_code_needs_consent(folder: Path, tmp_path: Path) -> None:
    changed(folder, code="f" * 64)
    with pytest.raises(RunFolderError, match=r"code of fedrec .*was ffffffff.*--accept-other-code"):
        fedrec.resume(folder)
    go_on(folder)
    assert outcome(folder) == outcome(go(tmp_path / "whole").folder)


def test_other_data_is_refused(folder: Path) -> None:
    changed(folder, data="e" * 64)
    with pytest.raises(RunFolderError, match=r"the data is not what it was .*was eeeeeeee.*--out"):
        go_on(folder)


def test_another_kernel_is_refused(folder: Path) -> None:
    changed(folder, executor="something else")
    with pytest.raises(RunFolderError, match=r"it meant 'something else'"):
        go_on(folder)


def test_a_run_that_is_under_way_is_left_alone(folder: Path) -> None:
    held = hold(folder / "rounds.jsonl")
    assert held is not None
    with pytest.raises(RunFolderError, match="under way"):
        go_on(folder)
    with pytest.raises(RunFolderError, match="under way"):
        go(folder)
    os.close(held)
    with pytest.raises(RunFolderError, match=r"holds a run already; continue it with --resume"):
        go(folder)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda run: (run / "config.yaml").unlink(), r"config\.yaml: is missing.*--overwrite"),
        (
            lambda run: (run / "checkpoint.safetensors").unlink(),
            r"checkpoint\.safetensors: is missing",
        ),
        (
            lambda run: (run / "rounds.jsonl").write_bytes(b""),
            r"rounds\.jsonl: ends with round 0, expected 1",
        ),
        (lambda run: (run / "rounds.jsonl").write_bytes(b"{}\n"), r"rounds\.jsonl: is not what"),
        (shutil.rmtree, "no such folder"),
    ],
)
def test_a_damaged_folder_is_named(spoil: Callable[[Path], Any], said: str, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(RunFolderError, match=said) as caught:
        go_on(folder)
    assert "\n" not in str(caught.value)


def test_a_baseline_is_fitted_once(tmp_path: Path) -> None:
    folder = go(tmp_path / "run", model={"name": "popularity"}).folder
    said: list[str] = []
    go_on(folder, say=said.append)
    assert "is complete" in said[0]
    (folder / "result.json").unlink()
    (folder / "rounds.jsonl").write_bytes(b"")
    assert go_on(folder).result["status"] == "completed"


def test_a_model_of_another_round_than_the_best_is_not_passed_off(folder: Path) -> None:
    (folder / "result.json").unlink()
    write_arrays(folder / "model.safetensors", {"item": np.zeros((2, 2))}, {"round": "1"})
    with pytest.raises(RunFolderError, match=r"is of round 1, but the best round is 2.*--resume"):
        fedrec.load(folder).recommend("0")
