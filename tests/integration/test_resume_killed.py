"""Runs in processes of their own that are killed, or whose workers are, and that go on exactly."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.integration.stopped_runs import SMALL, go, outcome
from tests.integration.test_run_serial import merged

pytestmark = pytest.mark.slow

ROUNDS = 40
LONG: dict[str, Any] = merged(SMALL, {"rounds": {"count": ROUNDS}, "evaluate": {"every": 4}})
RAY = ("--engine", "ray", "--set", "engine.workers=2")
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra 'sim'")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes of the run that is never stopped, on the serial engine."""
    changes = {key: LONG[key] for key in ("rounds", "evaluate")}
    return outcome(go(tmp_path_factory.mktemp("whole") / "run", **changes).folder)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command ``fedrec run``; ends what it started."""
    started: list[subprocess.Popen[str]] = []
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(LONG), encoding="utf-8")
    path = os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path)

    def call(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedrec", "run", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.communicate()


def await_rounds(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    log = folder / "rounds.jsonl"
    deadline = time.monotonic() + 120
    while not log.exists() or log.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def finish(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return errors


def test_a_run_killed_again_and_again_has_the_bits_of_one_that_was_not(
    start: Callable[..., subprocess.Popen[str]], uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    """Twelve kills at random moments, most of them in the middle of an exchange."""
    draws = random.Random(0)
    process = start("long.yaml", "--out", "run")
    for count in sorted(draws.choices(range(1, ROUNDS - 2), k=12)):
        await_rounds(process, tmp_path / "run", count)
        time.sleep(draws.uniform(0, 0.05))
        process.kill()
        process.wait()
        process = start("--resume", "run", "--accept-other-code")
    finish(process)
    assert outcome(tmp_path / "run") == uninterrupted


@pytest.mark.parametrize("engine", [(), pytest.param(RAY, marks=needs_ray)], ids=["serial", "ray"])
def test_an_asynchronous_run_that_is_killed_has_the_bits_of_one_that_was_not(
    engine: tuple[str, ...], start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """The clock, the jobs under way and the versions that they train from stand in the file."""
    plan = {"name": "asynchronous", "size": 4, "concurrency": 7}
    rounds = {"plan": plan, "devices": "synthetic", "cohort_fraction": None}
    sets = [
        f"rounds.{key}={yaml.safe_dump(rounds[key], default_flow_style=True)}" for key in rounds
    ]
    arguments = [word for each in sets for word in ("--set", each.removesuffix("...\n"))]
    changes = {"rounds": {**LONG["rounds"], **rounds}, "evaluate": LONG["evaluate"]}
    expected = outcome(go(tmp_path / "whole", **changes).folder)
    process = start("long.yaml", "--out", "run", *arguments, *engine)
    for count in (2, 11, 23):
        await_rounds(process, tmp_path / "run", count)
        process.kill()
        process.wait()
        process = start("--resume", "run", "--accept-other-code")
    finish(process)
    assert outcome(tmp_path / "run") == expected


def test_a_kill_in_the_first_round_is_survived(
    start: Callable[..., subprocess.Popen[str]], uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    process = start("long.yaml", "--out", "run")
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "state").exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    finish(start("--resume", "run", "--accept-other-code"))
    assert outcome(tmp_path / "run") == uninterrupted


def test_a_run_that_is_under_way_is_not_continued(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    endless = ("--set", "rounds.count=100000", "--set", "rounds.patience=null")
    process = start("long.yaml", "--out", "run", *endless)
    await_rounds(process, tmp_path / "run", 1)
    other = start("--resume", "run", "--accept-other-code", *endless)
    _, errors = other.communicate(timeout=60)
    assert other.returncode == 2
    assert "under way in another process" in errors
    assert process.poll() is None


@needs_ray
def test_a_run_on_ray_that_is_killed_goes_on_there_and_elsewhere(
    start: Callable[..., subprocess.Popen[str]], uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    process = start("long.yaml", "--out", "run", *RAY)
    await_rounds(process, tmp_path / "run", 3)
    process.kill()
    process.wait()
    process = start("--resume", "run", "--accept-other-code")
    await_rounds(process, tmp_path / "run", 12)
    process.kill()
    process.wait()
    finish(start("--resume", "run", "--accept-other-code", "--engine", "serial"))
    assert outcome(tmp_path / "run") == uninterrupted


@needs_ray
def test_a_worker_of_ray_that_is_killed_is_replaced(
    start: Callable[..., subprocess.Popen[str]], uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    """Six kills at random moments: each of two workers is replaced three times at most."""
    draws = random.Random(0)
    process = start("long.yaml", "--out", "run", *RAY)
    for count in sorted(draws.choices(range(1, ROUNDS - 2), k=6)):
        await_rounds(process, tmp_path / "run", count)
        time.sleep(draws.uniform(0, 0.05))
        os.kill(_workers(process)[0], signal.SIGKILL)  # the older one, so both in turn
    errors = finish(process)
    assert errors.count("it is replaced, and its clients are done again") == 6
    assert outcome(tmp_path / "run") == uninterrupted


def _workers(process: subprocess.Popen[str]) -> list[int]:
    """Both actors among the descendants of a process."""
    while process.poll() is None:  # an actor is hard to see while Ray changes its title
        workers = []
        family = psutil.Process(process.pid).children(recursive=True)
        for child in sorted(family, key=lambda child: child.pid):
            with suppress(psutil.Error):
                workers += [child.pid] if child.cmdline()[:1] == ["ray::FedrecWorker"] else []
        if len(workers) == 2:
            return workers
    raise AssertionError(process.communicate())


@needs_ray
@pytest.mark.parametrize("count", [0, 5])
def test_ctrl_c_on_ray_leaves_what_can_go_on_or_nothing(
    start: Callable[..., subprocess.Popen[str]],
    count: int,
    uninterrupted: dict[str, Any],
    tmp_path: Path,
) -> None:
    process = start("long.yaml", "--out", "run", *RAY)
    if count:
        await_rounds(process, tmp_path / "run", count)
    else:
        while not (tmp_path / "run" / "state").exists():
            time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    if not (tmp_path / "run").exists():
        assert "stopped before the first round" in errors
        assert not count
        return
    assert "continue: fedrec run --resume run" in errors
    finish(start("--resume", "run", "--accept-other-code"))
    assert outcome(tmp_path / "run") == uninterrupted
