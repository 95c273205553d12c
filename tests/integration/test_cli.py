"""The command line as processes: what a user types and what a pipe sees."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SMALL = """\
data: {name: synthetic, users: 60, items: 80, taste_groups: 3, rank: 3, interactions_per_user: 15}
model: {name: mf, embedding_dim: 8}
rounds: {count: 6}
evaluate: {every: 2, metrics: [ndcg@10, hit_rate@10]}
engine: {workers: 2}
"""


BACKGROUND = """\
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from fedrec.cli.commands import main
import fedrec.runs.run
print("ready", flush=True)
main()
"""


def environment() -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def fedrec(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedrec", *arguments],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def result(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return document


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(SMALL, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("engine", ["serial", "ray"])
def test_a_run_from_end_to_end(folder: Path, engine: str) -> None:
    done = fedrec(folder, "run", "small.yaml", "--engine", engine, "--out", "A")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("round ")]
    assert [line.split()[1] for line in lines] == ["2/6", "4/6", "6/6"]
    assert f"{result(folder / 'A')['metrics']['test']['ndcg@10']:.4f}" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr, "no colours where there is no terminal"
    shown = fedrec(folder, "report", "A")
    assert shown.returncode == 0, shown.stderr
    assert fedrec(folder, "recommend", "A", "--user", "7").returncode == 0


def test_two_seeds_differ_and_the_same_seed_does_not(folder: Path) -> None:
    seeds = ("--seed", "1", "--seed", "2", "--engine", "serial", "--quiet")
    for out in ("A", "B"):
        done = fedrec(folder, "run", "small.yaml", "--out", out, *seeds)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    summaries = [json.loads((folder / out / "summary.json").read_text()) for out in ("A", "B")]
    assert summaries[0]["digests"] == summaries[1]["digests"]
    assert len(set(summaries[0]["digests"])) == 2


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("engine", "number"),
    [("serial", signal.SIGINT), ("serial", signal.SIGTERM), ("ray", signal.SIGTERM)],
)
def test_a_signal_leaves_a_readable_run(folder: Path, engine: str, number: int) -> None:
    command = ["run", "small.yaml", "--engine", engine, "--out", "A"]
    endless = ["--set", "rounds.count=1000000"]
    process = started(folder, "-m", "fedrec", *command, *endless)
    try:
        log, patience = folder / "A" / "rounds.jsonl", time.monotonic() + 120
        while not log.exists() or log.read_bytes().count(b"\n") < 3:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < patience
            time.sleep(0.05)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert said.splitlines()[-1].endswith("fedrec report A")
    assert "Traceback" not in said
    shown = fedrec(folder, "report", "A")
    assert shown.returncode == 0, shown.stderr


def test_sigterm_ends_a_command_in_the_background_that_waits_for_its_input(folder: Path) -> None:
    """A shell lets what it starts in the background ignore Ctrl-C."""
    process = started(folder, "-c", BACKGROUND, "run", "/dev/fd/0")
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130
        assert process.stderr is not None and process.stderr.read() == "stopped\n"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("package", ["server", "clients"])
def test_a_folder_that_shadows_a_package_stops_the_run(folder: Path, package: str) -> None:
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text("", encoding="utf-8")
    done = fedrec(folder, "run", "small.yaml", "--engine", "serial")
    assert done.returncode == 2
    assert str((folder / package).resolve()) in done.stderr
    assert "rename" in done.stderr
    assert not (folder / "runs").exists()
