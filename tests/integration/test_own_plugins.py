"""Plug-ins of the user's own: their source is kept, compared, and travels from a script."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedrec
from fedrec.cli.commands import main
from fedrec.config.experiment import load_experiment
from fedrec.config.sources import sources_of
from fedrec.errors import ConfigError, RunFolderError
from fedrec.models import MatrixFactorization
from fedrec.report.figures import spectra
from fedrec.report.runs import load
from fedrec.runs.log import RoundRecord

MODEL = '''
from own_part import SCALE
from fedrec.models.mf import MatrixFactorization


class Own(MatrixFactorization):
    """Matrix factorisation under another name."""

    scale: float = SCALE
'''
YAML = """
data: {name: synthetic, users: 12, items: 20, taste_groups: 2}
model: {name: "own_model:Own", embedding_dim: 4}
rounds: {count: 3}
engine: {name: serial}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "own_model.py").write_text(MODEL, "utf-8")
    (folder / "own_part.py").write_text("SCALE = 1.0\n", "utf-8")
    (folder / "study.yaml").write_text(YAML, "utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    forget()
    yield folder
    forget()


def forget() -> None:
    for name in ("own_model", "own_part"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


def stopped(folder: Path, out: Path) -> Path:
    def watch(record: RoundRecord) -> None:
        if record.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fedrec.run(load_experiment(folder / "study.yaml"), out=out, on_round=watch)
    return out


@pytest.mark.parametrize("file", ["own_model.py", "own_part.py"])
def test_a_source_that_was_edited_is_noticed(file: str, own: Path, tmp_path: Path) -> None:
    out = stopped(own, tmp_path / "run")
    before = (own / file).read_text("utf-8")
    assert (out / "source" / file).read_text("utf-8") == before
    (own / file).write_text(before + "\nEDITED = True\n", "utf-8")
    with pytest.raises(RunFolderError, match=rf"{file}: is not what it was.*source.{file}.*--acc"):
        fedrec.resume(out)
    (own / file).unlink()
    with pytest.raises(RunFolderError, match=rf"{file}: is missing.*source.{file}: put it back"):
        fedrec.resume(out)
    copy = out / "source" / file
    copy.write_text(before + "\nEDITED = True\n", "utf-8")
    with pytest.raises(RunFolderError, match=rf"{file}: .*nor is its copy.*source.{file}: bring"):
        fedrec.resume(out)
    copy.write_text(before, "utf-8")
    (own / file).write_text(before, "utf-8")
    assert fedrec.resume(out).result["status"] == "completed"


def test_a_run_needs_neither_the_source_nor_the_data_any_more(own: Path, tmp_path: Path) -> None:
    done = fedrec.run(load_experiment(own / "study.yaml"), out=tmp_path / "run")
    expected = done.recommend("3", 5)
    for path in own.iterdir():
        path.unlink() if path.is_file() else None
    sys.path.remove(str(own))
    forget()
    assert fedrec.load(tmp_path / "run").recommend("3", 5) == expected
    assert spectra(load([tmp_path / "run"]).sections[0])


def test_a_run_is_read_with_the_source_that_it_keeps(own: Path, tmp_path: Path) -> None:
    done = fedrec.run(load_experiment(own / "study.yaml"), out=tmp_path / "run")
    expected = done.recommend("3", 5)
    score = "score(self, *arguments):\n        return -super().score(*arguments)\n"
    edited = f"{MODEL}\n    def {score}"
    (own / "own_model.py").write_text(edited, "utf-8")
    forget()
    with pytest.raises(ConfigError, match=r"source.own_model.py is hidden by .*study.own_model"):
        fedrec.load(tmp_path / "run").recommend("3", 5)
    sys.path.remove(str(own))
    forget()
    assert fedrec.load(tmp_path / "run").recommend("3", 5) == expected


SCRIPT = '''
import sys
import numpy as np
import fedrec
from fedrec.config.experiment import Experiment
from fedrec.models.mf import MatrixFactorization as Base
{before}
WIDTH = 4

class Mine(Base):
    """A class of the script."""
    width: int = WIDTH

    def unused(self):
        return np.ones({uses})

if __name__ == "__main__":
    experiment = Experiment.model_validate({{
        "data": {{"name": "synthetic", "users": 12, "items": 20, "taste_groups": 2}},
        "model": Mine(embedding_dim=WIDTH), "rounds": {{"count": 2}},
        "engine": {{"name": sys.argv[1], "workers": 1}},
    }})
    try:
        print(fedrec.run(experiment, out="run").result["digest"])
    except fedrec.errors.FedRecError as error:
        print(error)
'''


def run_script(folder: Path, engine: str, before: str = "", uses: str = "3") -> str:
    (folder / "study.py").write_text(SCRIPT.format(before=before, uses=uses), "utf-8")
    done = subprocess.run(
        [sys.executable, "study.py", engine],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "FEDREC_CACHE": str(folder / "cache")},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["serial", "ray"])
def test_a_class_of_a_script_runs_on_every_engine(engine: str, tmp_path: Path) -> None:
    assert len(run_script(tmp_path, engine)) == 64
    (source,) = (tmp_path / "run" / "source").iterdir()
    assert "class Mine" in source.read_text("utf-8")
    subprocess.run(["rm", "-rf", str(tmp_path / "cache")], check=True)
    assert len(fedrec.load(tmp_path / "run").recommend("3", 5)) == 5


@pytest.mark.slow
def test_a_class_that_uses_more_of_the_script_is_refused(tmp_path: Path) -> None:
    said = run_script(tmp_path, "serial", "def helper():\n    return 3", "helper()")
    assert said.startswith("model: class Mine uses 'helper', which the script or notebook defines")
    assert "own:Mine" in said and "\n" not in said


def test_a_plug_in_is_found_through_a_link(own: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(own)
    experiment = load_experiment(tmp_path / "link" / "study.yaml")
    assert set(sources_of(experiment)) == {"own_model.py", "own_part.py"}


def test_a_class_inside_a_function_is_refused_before_the_run(tmp_path: Path) -> None:
    class Inner(MatrixFactorization):
        """Cannot be imported elsewhere."""

    data = {"name": "synthetic", "users": 12, "items": 20, "taste_groups": 2}
    with pytest.raises(ConfigError, match=r"model: class Inner .*inside a function.*top level"):
        fedrec.run({"data": data, "model": Inner}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


METRIC = """
from fedrec.evaluation.metrics import PerUserMetric

class BestRank(PerUserMetric):
    def per_user(self, ranks):
        return ranks.values[ranks.offsets[:-1]].astype(float)
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["serial", "ray"])
def test_a_metric_beside_the_yaml_is_measured_on_every_engine(engine: str, tmp_path: Path) -> None:
    (tmp_path / "own_metric.py").write_text(METRIC, "utf-8")
    (tmp_path / "study.yaml").write_text(
        "data: {name: synthetic, users: 12, items: 40}\n"
        "evaluate: {metrics: [ndcg@5, 'own_metric:BestRank@5']}\nrounds: {count: 1}\n",
        "utf-8",
    )
    run = [sys.executable, "-m", "fedrec", "run", "study.yaml", "--engine", engine, "--out", "run"]
    done = subprocess.run(
        [*run, "--set", "engine.workers=1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = fedrec.load(tmp_path / "run").result
    assert result["metrics"]["test"]["own_metric:BestRank@5"] >= 1
    assert any("declare the bounds of class BestRank" in line for line in result["warnings"])
    assert (tmp_path / "run" / "source" / "own_metric.py").is_file()


def test_the_code_of_fedrec_is_not_a_source_of_a_plugin_beside_it() -> None:
    experiment = load_experiment(
        {"data": {"name": "synthetic"}, "model": "tests.contracts.own_models:Routed"}
    )
    assert set(sources_of(experiment)) == {"tests/contracts/own_models.py"}


@pytest.mark.parametrize(
    ("method", "line"),
    [
        (
            "def params(self, catalogue):\n        return super().params(catalogue) | [1]",
            "TypeError",
        ),
        ("def score(self, params, *_):\n        return params['user'].nobody", "AttributeError"),
    ],
)
def test_an_error_in_a_plugin_names_its_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, line: str
) -> None:
    head = "from fedrec.models.mf import MatrixFactorization\n\n\nclass Bad(MatrixFactorization):"
    text = f"{head}\n    {method}\n"
    (tmp_path / "bad_method.py").write_text(text, "utf-8")
    (tmp_path / "study.yaml").write_text(YAML.replace("own_model:Own", "bad_method:Bad"), "utf-8")
    argv = ["fedrec", "run", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(sys, "argv", argv)
        main()
    sys.modules.pop("bad_method", None)
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert line in said
    assert f"{tmp_path / 'bad_method.py'}:6, in " in said
