"""What somebody does on the first day: other folders, own modules, a terminal, Ctrl-C."""

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.refusal import SMALL, Fedrec

ROOT = Path(__file__).resolve().parents[2]
OWN = """\
from fedrec.models.base import Model
from fedrec.types import ParamSpec


class Own(Model):
    def params(self, catalogue):
        item = ParamSpec("shared", "item", (4,), init_std=0.1)
        return {"item": item, "user": ParamSpec("private", "user", (4,), init_std=0.1)}

    def score(self, params, batch, vectors):
        return (params["user"] * vectors).sum(-1)
"""
# As the installed command: the working folder is not on the path.
FEDREC = [sys.executable, "-P", "-m", "fedrec"]


def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FEDREC, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["serial", "ray"])
def test_an_own_model_is_found_beside_its_yaml_and_in_the_working_folder(
    tmp_path: Path, engine: str
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own_model.py").write_text(OWN, encoding="utf-8")
    config = SMALL.replace("{name: mf, embedding_dim: 4}", '{name: "own_model:Own"}')
    (tmp_path / "mine" / "own.yaml").write_text(config, encoding="utf-8")
    done = start(tmp_path, "run", "mine/own.yaml", "--engine", engine, "--out", "A")
    assert done.returncode == 0, done.stderr
    shown = start(tmp_path / "mine", "recommend", "../A", "--user", "3", "--k", "2")
    assert shown.returncode == 0, shown.stderr
    (tmp_path / "mine" / "own_model.py").unlink()
    again = start(tmp_path, "recommend", "A", "--user", "3", "--k", "2")
    assert (again.returncode, again.stdout) == (0, shown.stdout)


def test_a_run_is_read_from_any_folder(
    command: Fedrec, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the path of the data is relative to the folder in which it ran."""
    assert command("run", "table.yaml", "--out", "A", "--quiet").code == 0
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    done = command("recommend", "../A", "--user", "3", "--k", "2")
    assert done.code == 0, done.err
    assert command("report", "../A").code == 0


def test_a_report_finds_the_runs_of_several_seeds(command: Fedrec) -> None:
    assert command("run", "table.yaml", "--quiet").code == 0
    assert command("run", "table.yaml", "--quiet", "--seed", "1", "--seed", "2").code == 0
    shown = command("report", "runs")
    assert shown.code == 0, shown.err
    assert "0, 1, 2" in shown.out


def test_without_a_command_there_is_help(command: Fedrec) -> None:
    for arguments in ((), ("data",)):
        done = command(*arguments)
        assert (done.code, done.err) == (0, "")
        assert "Commands" in done.out
    for name in ("run", "report", "recommend"):
        assert "\\" not in command(name, "--help").out


# The new session takes the terminal that it stands on as its own, so that Ctrl-C reaches it.
SEATED = """\
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def terminal(
    folder: Path, width: int, *arguments: str, until: Callable[[], bool] | None = None
) -> tuple[int, str]:
    """Run in a terminal; press Ctrl-C there once something has come to pass."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, width))
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-c", SEATED, *FEDREC, *arguments],
        cwd=folder,
        env={**environment, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    text, deadline = b"", time.monotonic() + 120
    try:
        while time.monotonic() < deadline:
            if until is not None and until():
                os.write(ours, b"\x03")
                until = None
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    text += os.read(ours, 65536)
                except OSError:  # the other end is closed
                    break
        return process.wait(30), re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.decode())
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.slow
@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_bar_fits_the_terminal(here: Path, width: int) -> None:
    """The round is never cut off; the score is there from 60 columns, the speed from 80."""
    more = ("--set", "rounds.count=300", "--set", "evaluate.every=50")
    code, text = terminal(here, width, "run", "small.yaml", "--out", "A", *more)
    assert code == 0, text
    bars = [line.rstrip() for line in re.split("[\r\n]+", text) if line.endswith(" left")]
    assert bars
    assert max(map(len, bars)) <= width
    assert all(re.match(r". round +\d+/300 ", line) for line in bars)
    assert ("valid ndcg@5 0." in bars[-1]) == (width >= 60)
    assert ("clients/s" in bars[-1]) == (width >= 80)
    assert bool(re.search(r"loss \d", bars[-1])) == (width >= 100)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["serial", "ray"])
def test_control_c_in_a_terminal_leaves_a_run_that_recommends(here: Path, engine: str) -> None:
    """The whole process group is interrupted, workers too."""
    log = here / "A" / "rounds.jsonl"
    endless = ["--set", "rounds.count=1000000", "--set", "evaluate.every=1"]
    code, text = terminal(
        here,
        80,
        *("run", "small.yaml", "--engine", engine, "--out", "A", *endless),
        until=lambda: log.exists() and log.read_bytes().count(b"\n") > 2,
    )
    assert code == 130, text
    assert "Traceback" not in text
    assert text.rstrip().endswith("fedrec report A")
    assert start(here, "report", "A").returncode == 0
    shown = start(here, "recommend", "A", "--user", "3", "--k", "2")
    assert shown.returncode == 0, shown.stderr


@pytest.mark.slow
def test_control_c_before_the_first_round_leaves_nothing(here: Path) -> None:
    folder = here / "A"
    slow = ("--engine", "serial", "--set", "data={name: synthetic, users: 20000}")
    code, text = terminal(
        here, 80, "run", "small.yaml", "--out", "A", *slow, until=lambda: folder.exists()
    )
    assert code == 130, text
    assert "Traceback" not in text
    if "stopped before the first round" in text:
        assert not folder.exists()
