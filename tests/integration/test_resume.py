"""A run that goes on has the bits of one that was never stopped, wherever it was stopped."""

import json
import logging
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import fedrec
from fedrec.errors import RunFolderError
from fedrec.runs.log import RoundRecord, read_log
from fedrec.runs.progress import Progress
from fedrec.runs.reader import RunFolder
from fedrec.runs.run import resume_all
from strategies import STRATEGIES
from tests.integration.stopped_runs import (
    ROUNDS,
    SMALL,
    go,
    go_on,
    outcome,
    rounds_of,
    stopped,
)
from tests.planted import rates


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes of the run that is never stopped."""
    return outcome(go(tmp_path_factory.mktemp("whole") / "run").folder)


# Killed at any moment ------------------------------------------------------------------------


PHOTOGRAPHED = """\
import json, shutil, sys
from pathlib import Path
import fedrec
from fedrec.config.experiment import load_experiment

config, out, album = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
busy = False

def photograph(event, arguments):
    # Before each file of the run folder is put in its place, or taken away.
    global busy
    if event in ("os.rename", "os.remove") and not busy and str(arguments[0]).startswith(str(out)):
        busy = True
        name = Path(str(arguments[-3] if event == "os.rename" else arguments[0])).name
        shutil.copytree(out, album / f"{len(list(album.iterdir())):03d}-{event}-{name}")
        busy = False

sys.addaudithook(photograph)
fedrec.run(load_experiment(config), out=out)
"""


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The run folder as a kill would leave it, before each change of a file."""
    folder = tmp_path_factory.mktemp("album")
    (folder / "shots").mkdir()
    call = [sys.executable, "-c", PHOTOGRAPHED, json.dumps(SMALL)]
    subprocess.run([*call, str(folder / "run"), str(folder / "shots")], check=True, timeout=120)
    return sorted((folder / "shots").iterdir())


@pytest.mark.slow
def test_a_run_killed_between_any_two_writes_goes_on_exactly(
    album: list[Path], uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    names = {shot.name.partition("-")[2] for shot in album}
    for file in ("checkpoint.safetensors", "model.safetensors", "committed.json", "result.json"):
        assert f"os.rename-{file}" in names
    started = [shot for shot in album if (shot / "config.yaml").exists()]
    assert len(started) > 40
    for shot in started:
        folder = Path(shutil.copytree(shot, tmp_path / shot.name))
        go_on(folder)
        assert outcome(folder) == uninterrupted, shot.name
        assert not list(folder.rglob(".*")), shot.name


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_a_write_goes_on_exactly(
    album: list[Path], uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    """The log is appended to, and the local state is written in place: both may be half done."""
    torn = settling = 0
    for shot in album:
        if not (shot / "checkpoint.safetensors").exists() or (shot / "result.json").exists():
            continue
        folder = Path(shutil.copytree(shot, tmp_path / shot.name))
        taken = json.loads(_metadata(folder / "checkpoint.safetensors")["checkpoint"])
        taken_round = taken["record"]["round"]
        log = folder / "rounds.jsonl"
        if len(read_log(log)) == taken_round:
            log.write_bytes(log.read_bytes()[:-20])
            torn += 1
        for staged in folder.glob("state/*/staged*.safetensors"):
            applied = json.loads((staged.parent / "committed.json").read_text())["applied"]
            before = max((round for round, _ in applied), default=0)
            if before < int(staged.name.split("@")[1]) <= taken_round:
                _scramble(staged)
                settling += 1
        go_on(folder)
        assert outcome(folder) == uninterrupted, shot.name
    assert torn >= ROUNDS
    assert settling >= ROUNDS


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "numpy") as file:
        return dict(file.metadata())


def _scramble(staged: Path) -> None:
    """As if the process had died while it moved the staged values into the arrays."""
    content = load_file(staged)
    for name in content:
        if name.startswith("value."):
            stem = name.removeprefix("value.").replace("/", ".")
            array = np.load(staged.parent / f"{stem}.npy", mmap_mode="r+")
            at = next(
                where
                for axis, where in content.items()
                if axis.startswith("at.") and len(where) == len(content[name])
            )
            array[at[::2]] = 7


# Stopped on purpose --------------------------------------------------------------------------


@pytest.mark.parametrize("after", range(1, ROUNDS + 1))
def test_an_interrupted_run_goes_on_exactly(
    after: int, uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    folder = stopped(tmp_path / "run", after)
    assert RunFolder(folder).result["status"] == "interrupted"
    seen: list[int] = []
    said: list[str] = []
    done = go_on(folder, on_round=lambda record: seen.append(record.round), say=said.append)
    assert outcome(folder) == uninterrupted
    assert seen == list(range(after, ROUNDS + 1))
    assert f"{folder}: continues after round {after} of {ROUNDS}" in said
    assert done.result["resumed"] == [after]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_goes_on_exactly(strategy: str, tmp_path: Path) -> None:
    changes = {"strategy": {"name": strategy}, "personalization": {"name": "none"}}
    folder = stopped(tmp_path / "run", 2, **changes)
    go_on(folder)
    assert outcome(folder) == outcome(go(tmp_path / "whole", **changes).folder)


def test_optimizers_with_state_and_a_schedule_go_on_exactly(tmp_path: Path) -> None:
    """In the second half of the run the rates fall, and they are those of its rounds."""
    adam = {"name": "adamw", "lr": 0.01, "weight_decay": 0.1}
    train = {
        "optimizers": {"item": {"momentum": 0.5}, "shared": adam, "private": adam},
        "schedule": {"name": "wsd", "warmup": 2, "anneal": 2},
        "local_epochs": 2,
    }
    changes = {"model": "neumf", "train": train}
    folder = stopped(tmp_path / "run", 2, **changes)
    go_on(folder)
    expected = outcome(go(tmp_path / "whole", **changes).folder)
    assert outcome(folder) == expected
    constant = {**changes, "train": {**train, "schedule": "constant"}}
    assert outcome(go(tmp_path / "constant", **constant).folder) != expected


def test_times_and_bytes_are_those_of_all_rounds(tmp_path: Path) -> None:
    one = go(tmp_path / "a" / "run")
    other = go_on(stopped(tmp_path / "b" / "run", 3))
    log = read_log(other.folder / "rounds.jsonl")
    for part in ("train", "evaluate"):
        assert other.result["seconds"][part] == sum(getattr(each.seconds, part) for each in log)
    spent = other.result["seconds"]
    assert spent["total"] >= spent["train"] + spent["evaluate"]
    assert other.result["bytes"] == one.result["bytes"]
    assert [each.bytes for each in log] == [
        each.bytes for each in read_log(one.folder / "rounds.jsonl")
    ]


def test_a_run_may_be_stopped_often_and_on_other_engines(
    uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    folder = stopped(tmp_path / "run", 1)
    for after in (2, 3):

        def watch(record: RoundRecord, after: int = after) -> None:
            if record.round == after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            go_on(folder, f"engine.chunk={after}", "engine.nodes=auto", on_round=watch)
    done = go_on(folder)
    assert outcome(folder) == uninterrupted
    assert done.result["resumed"] == [1, 2, 3]


def test_a_run_stopped_before_its_first_round_was_taken_starts_again(
    uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    folder = go(tmp_path / "run").folder
    (folder / "checkpoint.safetensors").unlink()
    (folder / "result.json").unlink()
    (folder / "rounds.jsonl").write_bytes(b"")
    said: list[str] = []
    go_on(folder, "engine.nodes=3", say=said.append)
    assert outcome(folder) == uninterrupted
    assert "starts at the beginning" in said[0]


# Complete ------------------------------------------------------------------------------------


def test_a_complete_run_is_left_as_it_is(tmp_path: Path) -> None:
    folder = go(tmp_path / "run").folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    said: list[str] = []
    fedrec.resume(folder, say=said.append)
    assert "is complete, 4 rounds" in said[0]
    assert "rounds.count=N" in said[0]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_complete_run_can_be_extended(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    folder = go(tmp_path / "run", rounds={"count": 2}).folder
    go_on(folder, f"rounds.count={ROUNDS}")
    assert outcome(folder) == uninterrupted
    assert fedrec.load(folder).experiment.rounds.count == ROUNDS


def test_where_the_last_round_was_evaluated_out_of_turn_that_stays(tmp_path: Path) -> None:
    folder = go(tmp_path / "run", rounds={"count": 3}).folder
    done = go_on(folder, "rounds.count=5")
    evaluated = [each["round"] for each in rounds_of(folder) if each["evaluation"]]
    assert evaluated == [2, 3, 4, 5]
    assert done.result["digest"] == go(tmp_path / "five", rounds={"count": 5}).result["digest"]
    assert RunFolder(folder).model()


def test_patience_goes_on_counting(tmp_path: Path) -> None:
    train = {"optimizers": rates(1e-20, {"name": "sgd", "lr": 1e-20})}
    still = {"train": train, "strategy": {"name": "fedavg"}, "evaluate": {"every": 1}}
    rounds = {"count": 12, "patience": 3, "cohort_fraction": None}
    folder = stopped(tmp_path / "run", 3, **still, rounds=rounds)
    done = go_on(folder)
    assert (done.result["status"], done.result["rounds"]) == ("early_stop", 4)
    said: list[str] = []
    fedrec.resume(folder, say=said.append)
    assert "is complete, 4 rounds" in said[0]
    done = go_on(folder, "rounds.patience=5")
    assert (done.result["status"], done.result["rounds"]) == ("early_stop", 6)
    done = go_on(folder, "rounds.patience=null")
    assert (done.result["status"], done.result["rounds"]) == ("completed", 12)


@pytest.mark.parametrize(("key", "value"), [("count", 2), ("patience", 1)])
def test_what_a_complete_run_advises_extends_it(key: str, value: int, tmp_path: Path) -> None:
    train = {"optimizers": rates(1e-20, {"name": "sgd", "lr": 1e-20})}
    still = {"train": train, "strategy": {"name": "fedavg"}, "evaluate": {"every": 1}}
    out = tmp_path / "run"
    before = go(out, **still, rounds={key: value}).result["rounds"]
    with pytest.raises(RunFolderError, match=rf"--resume {out}, or extend it with --set"):
        go(out, **still, rounds={key: value})
    said: list[str] = []
    fedrec.resume(out, say=said.append)
    assert f"--set rounds.{key}=N" in said[0]
    more = go_on(out, f"rounds.{key}=4")
    assert more.result["rounds"] > before


# Several seeds -------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, ROUNDS + 2, 3 * ROUNDS])
def test_several_seeds_that_were_stopped_are_finished(after: int, tmp_path: Path) -> None:
    undisturbed = fedrec.run(SMALL, seed=[0, 1, 2], out=tmp_path / "undisturbed")
    seen: list[RoundRecord] = []

    def watch(record: RoundRecord) -> None:
        seen.append(record)
        if len(seen) == after:
            raise KeyboardInterrupt

    base = tmp_path / "runs"
    with pytest.raises(KeyboardInterrupt):
        fedrec.run(SMALL, seed=[0, 1, 2], out=base, on_round=watch)
    with pytest.raises(RunFolderError, match=rf"--resume {base}"):
        fedrec.run(SMALL, seed=[0, 1, 2], out=base)
    runs = list(resume_all(base, [], True, partial(Progress, level=logging.ERROR)))
    assert [run.folder for run in runs] == [base / f"seed{seed}" for seed in range(3)]
    for run, expected in zip(runs, undisturbed, strict=True):
        assert outcome(run.folder) == outcome(expected.folder)
