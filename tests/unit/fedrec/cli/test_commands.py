"""The command line in this process; with processes of its own: tests/integration/test_cli.py."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from fedrec.cli import commands as cli

SMALL = """\
data: {name: synthetic, users: 40, items: 60, taste_groups: 2, interactions_per_user: 12}
model: {name: popularity}
evaluate: {metrics: [ndcg@10, hit_rate@10]}
"""


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


class Fedrec(Protocol):
    def __call__(self, *arguments: str | Path) -> Done: ...


@pytest.fixture
def fedrec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Fedrec:
    """The command ``fedrec`` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def call(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["fedrec", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return Done(int(stopped.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return path


def test_help_and_version_come_without_loading_what_is_heavy() -> None:
    script = (
        "import sys, fedrec.cli.commands\n"
        "heavy = {'torch', 'flwr', 'ray', 'numpy', 'pandas', 'pydantic', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_version(fedrec: Fedrec) -> None:
    done = fedrec("--version")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("fedrec ")


@pytest.mark.parametrize("command", ["run", "report", "recommend", "doctor", "data"])
def test_every_command_has_help(fedrec: Fedrec, command: str) -> None:
    done = fedrec(command, "--help")
    assert done.code == 0
    assert "--help" in done.out


def test_a_run_leaves_a_folder_and_shows_its_scores(fedrec: Fedrec, config: Path) -> None:
    done = fedrec("run", config)
    assert done.code == 0, done.err
    result = json.loads(Path("runs/small-seed0/result.json").read_text(encoding="utf-8"))
    assert f"{result['metrics']['test']['ndcg@10']:.4f}" in done.out
    assert "fedrec report runs/small-seed0" in done.out
    assert "40 users" in done.err, "what happens is told on stderr"


def test_an_existing_run_is_left_alone_unless_asked(fedrec: Fedrec, config: Path) -> None:
    assert fedrec("run", config, "--out", "A").code == 0
    again = fedrec("run", config, "--out", "A")
    assert again.code == 2
    assert "--overwrite" in again.err and "--out" in again.err
    assert fedrec("run", config, "--out", "A", "--overwrite").code == 0


def test_quiet_says_nothing(fedrec: Fedrec, config: Path) -> None:
    assert fedrec("run", config, "--quiet") == Done(0, "", "")
    assert fedrec("run", config, "--quiet", "--seed", "1", "--seed", "2") == Done(0, "", "")


def test_several_seeds_make_several_runs_and_a_summary(fedrec: Fedrec, config: Path) -> None:
    done = fedrec("run", config, "--set", "model.name=random", "--seed", "3", "5")
    assert done.code == 0, done.err
    summary = json.loads(
        Path("runs/small-model.name=random/summary.json").read_text(encoding="utf-8")
    )
    assert summary["seeds"] == [3, 5]
    for seed, folder in zip(summary["seeds"], summary["folders"], strict=True):
        result = json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
        assert result["seed"] == seed
        assert (
            result["metrics"]["test"]["ndcg@10"]
            in (summary["metrics"]["test"]["ndcg@10"]["values"])
        )
    assert "±" in done.out


def test_seeds_are_numbers_and_ranges(fedrec: Fedrec, config: Path) -> None:
    assert fedrec("run", config, "--seed=0-1", "4", "--seed", "7", "--quiet").code == 0
    seeds = json.loads(Path("runs/small/summary.json").read_text(encoding="utf-8"))["seeds"]
    assert seeds == [0, 1, 4, 7]


def test_the_home_folder_is_found_in_every_path(
    fedrec: Fedrec, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fedrec("run", "~/small.yaml", "--out", "~/A", "--quiet").code == 0
    assert (tmp_path / "A" / "result.json").is_file()
    for command in (["report", "~/A"], ["recommend", "~/A", "--user", "3"]):
        assert fedrec(*command).code == 0
    assert fedrec("run", "--resume", "~/A").code == 0
    assert not list(tmp_path.glob("~*"))


def test_no_help_shows_an_escape_or_exceeds_80_columns(
    fedrec: Fedrec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for command in ("run", "report", "recommend", "doctor", "data", "data list", "data get"):
        text = fedrec(*command.split(), "--help").out
        assert "\\" not in text
        assert max(map(len, text.splitlines())) <= 80


def test_with_several_seeds_all_folders_must_be_free_before_the_first_run(
    fedrec: Fedrec, config: Path
) -> None:
    assert fedrec("run", config, "--out", "S/seed2").code == 0
    done = fedrec("run", config, "--out", "S", "--seed", "1", "--seed", "2")
    assert done.code == 2
    assert "seed2" in done.err
    assert not Path("S/seed1").exists()


def test_settings_are_overridden_by_dotted_key(fedrec: Fedrec, config: Path) -> None:
    assert fedrec("run", config, "--set", "data.users=30", "--seed", "7").code == 0
    written = Path("runs/small-data.users=30-seed7/config.yaml").read_text(encoding="utf-8")
    assert "users: 30" in written
    assert "seed: 7" in written


def test_recommend_gives_raw_ids_that_the_user_has_not_met(fedrec: Fedrec, config: Path) -> None:
    assert fedrec("run", config, "--out", "A").code == 0
    done = fedrec("recommend", "A", "--user", "3", "--k", "5")
    assert done.code == 0, done.err
    ranks = [line.split()[0] for line in done.out.splitlines() if line.split()[0].isdigit()]
    assert ranks == ["1", "2", "3", "4", "5"]
    unknown = fedrec("recommend", "A", "--user", "nobody")
    assert unknown.code == 2 and "nobody" in unknown.err


def test_report_compares_runs_and_writes_markdown(fedrec: Fedrec, config: Path) -> None:
    assert fedrec("run", config, "--out", "A/one").code == 0
    assert fedrec("run", config, "--out", "A/two", "--set", "model.name=itemknn").code == 0
    shown = fedrec("report", "A")
    assert shown.code == 0, shown.err
    assert "popularity" in shown.out and "itemknn" in shown.out
    assert fedrec("report", "A/one", "A/two", "--markdown").out.count("|") > 10


BAD = {
    "negative seed": (["run", "small.yaml", "--seed", "-1"], ["seed", "-1"]),
    "unknown data set": (["data", "get", "ml-100"], ["ml-100", "ml-100k"]),
    "unknown data set to check": (["data", "check", "ml-100"], ["ml-100", "ml-100k"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_that_names_it_and_the_way_out(
    fedrec: Fedrec, config: Path, case: str
) -> None:
    arguments, named = BAD[case]
    done = fedrec(*arguments)
    assert done.code == 2
    assert "Traceback" not in done.err
    for part in named:
        assert part in done.err, done.err
    if case != "unknown engine":  # typer's own, with the usage above it
        errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert done.err.endswith(errors[0] + "\n")
        assert done.out == ""


def test_a_missing_part_says_the_pip_line(
    fedrec: Fedrec, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that Python is told does not exist, as where the extra is not installed."""
    assert fedrec("run", config, "--out", "A").code == 0
    for name in [name for name in sys.modules if name.startswith("fedrec.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    done = fedrec("report", "A", "--out", "report.html")
    assert done.code == 2
    assert "run: pip install " in done.err


def test_the_data_sets_are_listed(fedrec: Fedrec) -> None:
    done = fedrec("data", "list")
    assert done.code == 0
    assert "ml-100k" in done.out


def test_real_data_is_checked(fedrec: Fedrec, ml100k: Path) -> None:
    done = fedrec("data", "check", "ml-100k")
    assert done.code == 0, done.err
    assert "943 users" in done.out and "100,000" in done.out
    assert str(ml100k) in fedrec("data", "get", "ml-100k").out


def test_doctor_finds_this_installation_sound(fedrec: Fedrec) -> None:
    done = fedrec("doctor")
    assert done.code == 0, done.out
    assert "cores" in done.out and "ray" in done.out


MODEL = """
from fedrec.models.base import Model
from fedrec.models.mf import MatrixFactorization


class Own(MatrixFactorization):
    pass


class Deaf(Own):
    def score(self, params, batch, vectors):
        return vectors.sum(-1)


class Unfinished(Model):
    def params(self, catalogue):
        return {}
"""


def test_a_plugin_is_checked(fedrec: Fedrec, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "checked_model.py").write_text(MODEL, encoding="utf-8")
    done = fedrec("check", "plugins/checked_model.py:Own", "--set", "embedding_dim=4")
    lines = done.out.splitlines()
    assert (done.code, done.err) == (0, "")
    assert len(lines) > 5
    assert all(line.startswith("passed") for line in lines)
    failed = fedrec("check", "checked_model:Deaf")
    assert failed.code == 1
    assert any(line.startswith("failed") and "'user'" in line for line in failed.out.splitlines())
    assert len(failed.out.splitlines()) == len(lines)
    assert fedrec("check", "ndcg").code == 0
    frame = fedrec("check", "frame")
    assert frame.code == 0
    assert [line.split()[0] for line in frame.out.splitlines()] == ["passed", "not", "not"]


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        ("mff", "'mff' is no plug-in (did you mean 'mf'?)"),
        ("nowhere.py:Own", "nowhere.py: no such file"),
        ("nowhere:Own", "nowhere:Own cannot be imported"),
        ("csv", "path: is missing; give it with --set path=VALUE"),
        ("classes.py", "expected classes.py:Class; its classes are First, Second"),
        ("classes.py:", "expected classes.py:Class; its classes are First, Second"),
        ("classes.py:Frist", "has no 'Frist'"),
        ("empty.py", "expected empty.py:Class; its classes are none"),
        ("fedrec.training.settings:Train", "is not a plug-in class"),
        ("fedrec.models.base:Model", "does not define params, score"),
    ],
)
def test_a_plugin_that_cannot_be_loaded(fedrec: Fedrec, plugin: str, said: str) -> None:
    Path("classes.py").write_text("class First: ...\n\n\nclass Second: ...\n", encoding="utf-8")
    Path("empty.py").write_text("FIRST = 1\n", encoding="utf-8")
    done = fedrec("check", plugin)
    assert done.code == 2
    assert done.out == ""
    assert said in done.err
    assert len(done.err.splitlines()) == 1
