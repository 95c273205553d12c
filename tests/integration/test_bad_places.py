"""Folders, options, users and parts that are not there: one line, and nothing left behind."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import fedrec
from fedrec.config.experiment import load_experiment
from fedrec.errors import ConfigError, DataError, FedRecError, RunFolderError
from tests.integration.refusal import Done, Fedrec, content, of, refused

OUTS: Mapping[str, tuple[list[str], list[str]]] = {
    "a file": (["--out", "r.csv"], ["r.csv", "is a file", "--out"]),
    "a file in the way": (["--out", "r.csv/R"], ["r.csv/R", "cannot be written", "--out"]),
    "no place": (["--out", "/proc/R"], ["/proc/R", "cannot be written", "--out"]),
    "a long name": (["--out", "x" * 300], ["too long", "--out"]),
    "the working folder": (["--out", "."], ["not empty", "--out"]),
    "somebody's folder": (["--out", "full"], ["full", "not empty", "--out"]),
    "somebody's folder, overwritten": (["--out", "full", "--overwrite"], ["full", "--out"]),
    "a run": (["--out", "A"], ["A", "holds a run already", "--overwrite"]),
    "a run, for several seeds": (
        ["--out", "A", "--seed", "1", "--seed", "2"],
        ["A", "holds a run", "--out"],
    ),
    "the folder of the last seed": (
        ["--out", "S", "--seed", "1", "--seed", "2"],
        ["S/seed2", "holds a run already", "--overwrite"],
    ),
    "a seed twice": (["--seed", "1", "--seed", "1"], ["seed: got [1, 1]", "each once"]),
    "a negative seed": (["--seed", "-1"], ["--seed", "0-4", "'-1'"]),
    "no seed": (["--seed", "one"], ["--seed", "'one'", "0-4"]),
    "unknown engine": (["--engine", "rya"], ["--engine", "'rya'", "'ray'"]),
    "unknown option": (["--sede", "1"], ["--sede", "--seed", "fedrec run --help"]),
    "option without value": (["--out"], ["--out"]),
    "two experiments": (["table.yaml"], ["table.yaml", "fedrec run --help"]),
}


@pytest.mark.parametrize("case", OUTS)
def test_a_bad_option_of_run(command: Fedrec, here: Path, case: str) -> None:
    (here / "full").mkdir()
    (here / "full" / "thesis.txt").write_text("mine", encoding="utf-8")
    for folder in ("A", "S/seed2"):
        assert command("run", "table.yaml", "--out", folder, "--quiet").code == 0
    arguments, named = OUTS[case]
    refused(command, ["run", "small.yaml", *arguments], named)


READING: Mapping[str, tuple[list[str], list[str]]] = {
    "unknown user": (["recommend", "A", "--user", "zoe"], ["user 'zoe'", "such as '0' and '11'"]),
    "misspelt user": (["recommend", "A", "--user", "111"], ["did you mean '11'"]),
    "no user": (["recommend", "A"], ["--user", "fedrec recommend --help"]),
    "k above the catalogue": (["recommend", "A", "--user", "3", "--k", "21"], ["k:", "20", "21"]),
    "k = 0": (["recommend", "A", "--user", "3", "--k", "0"], ["--k", "0", ">=1"]),
    "no folder": (["recommend", "B", "--user", "3"], ["B", "no such folder", "--out"]),
    "no run folder": (["recommend", "full", "--user", "3"], ["full", "not a run folder", "--out"]),
    "a file": (["recommend", "r.csv", "--user", "3"], ["r.csv", "not a run folder"]),
    "a run cut off": (
        ["recommend", "half", "--user", "3"],
        ["half/model.safetensors", "--overwrite"],
    ),
    "a run without config": (["recommend", "bare", "--user", "3"], ["bare/config.yaml"]),
    "report on no folder": (["report", "A", "B"], ["B", "no such folder", "--out"]),
    "report on no run folder": (["report", "full"], ["full", "not a run folder", "--out"]),
    "report on a file": (["report", "r.csv"], ["r.csv", "not a run folder"]),
    "report on nothing": (["report"], ["RUNS", "fedrec report --help"]),
    "report on a damaged log": (["report", "torn"], ["torn/rounds.jsonl", "line 1"]),
    "report on a damaged result": (["report", "bent"], ["bent/result.json", "JSON"]),
    "report to nowhere": (["report", "A", "--out", "r.csv/x.html"], ["r.csv/x.html", "--out"]),
    "a long name": (["report", "x" * 300], ["File name too long"]),
    "unknown command": (["rum"], ["'rum'", "did you mean 'run'"]),
    "unknown command of data": (["data", "got"], ["'got'", "fedrec data --help"]),
}


@pytest.mark.parametrize("case", READING)
def test_bad_reading(command: Fedrec, here: Path, case: str) -> None:
    (here / "full").mkdir()
    (here / "full" / "thesis.txt").write_text("mine", encoding="utf-8")
    assert command("run", "table.yaml", "--out", "A", "--quiet").code == 0
    assert command(*of()).code == 0
    for name, log in (("half", ""), ("bare", ""), ("torn", '{"round": "x"}\n'), ("bent", "")):
        (here / name).mkdir()
        (here / name / "rounds.jsonl").write_text(log, encoding="utf-8")
        (here / name / "split.safetensors").write_bytes(
            (here / "R" / "split.safetensors").read_bytes()
        )
        if name != "bare":
            (here / name / "config.yaml").write_bytes((here / "R" / "config.yaml").read_bytes())
    (here / "bent" / "result.json").write_text("{", encoding="utf-8")
    arguments, named = READING[case]
    error = refused(command, arguments, [])
    for part in named:
        assert part.lower() in error.lower()


BLOCKED = """\
import sys
for name in sys.argv.pop(1).split(","):
    sys.modules[name] = None
from fedrec.cli.commands import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "arguments", "named"),
    [
        ("ray", of("engine.name=ray"), "the Ray engine"),
        ("ray", of("engine.name=flower"), "Flower"),
        ("pyarrow", of(), "pyarrow, for running experiments,"),
        ("pandas", of("data.path=dates.csv", config="table.yaml"), "pandas, for dates"),
        ("scipy", of("clients={by: taste, count: 3}"), "scipy, for clients.by: taste,"),
        ("scipy", of("model={name: itemknn}"), "scipy"),
        ("numba", of("train.backend=numba"), "train.backend: torch"),
        ("matplotlib", ["report", "A", "--out", "x.html"], "matplotlib, for a report in HTML,"),
        ("jinja2", ["report", "A", "--out", "x.html"], "jinja2, for a report in HTML,"),
    ],
)
def test_a_part_that_is_not_installed(
    command: Fedrec, here: Path, part: str, arguments: list[str], named: str
) -> None:
    dates = (here / "r.csv").read_text(encoding="utf-8").splitlines()
    dates[1:] = [
        f"{row.rpartition(',')[0]},2024-05-{1 + n % 28:02d}" for n, row in enumerate(dates[1:])
    ]
    (here / "dates.csv").write_text("\n".join(dates), encoding="utf-8")
    assert command("run", "table.yaml", "--out", "A", "--quiet").code == 0

    def blocked(*arguments: str) -> Done:
        call = [sys.executable, "-c", BLOCKED, part, *arguments]
        path = os.pathsep.join(each or os.getcwd() for each in sys.path)
        done = subprocess.run(
            call,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    refused(blocked, arguments, [named, "is not installed; run: pip install "])


def test_without_ray_the_default_engine_is_serial(here: Path) -> None:
    script = BLOCKED.replace("sys.argv.pop(1)", "'ray'")
    done = subprocess.run(
        [sys.executable, "-c", script, *of("engine={name: auto}")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_the_library_raises_what_the_command_line_says(here: Path) -> None:
    small = load_experiment("small.yaml")
    cases: list[tuple[type[FedRecError], Any, dict[str, Any]]] = [
        (ConfigError, "nowhere.yaml", {}),
        (RunFolderError, small, {"out": "r.csv"}),
        (DataError, load_experiment("table.yaml", ["data.path=nowhere.csv"]), {}),
    ]
    for kind, source, options in cases:
        before = content()
        with pytest.raises(kind) as caught:
            fedrec.run(source, **options)
        assert "\n" not in str(caught.value)
        assert content() == before
    with pytest.raises(RunFolderError, match="no such folder"):
        fedrec.load("nowhere")
    done = fedrec.run(small, out="R")
    with pytest.raises(DataError, match="user 'x'"):
        done.recommend("x")
    with pytest.raises(ConfigError, match="k: expected 1 to 55"):
        done.recommend("3", k=56)
    with pytest.raises(RunFolderError, match="--overwrite"):
        fedrec.run(small, out="R")
