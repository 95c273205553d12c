"""The snippets of the README do what the text around them says."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import fedrec
from fedrec.config.experiment import load_experiment
from fedrec.testing import check, load_plugin


@pytest.fixture
def snippets(root: Path) -> dict[str, list[str]]:
    """The fenced blocks of the README by language."""
    text = (root / "README.md").read_text(encoding="utf-8")
    blocks: dict[str, list[str]] = {}
    for language, body in re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        blocks.setdefault(language, []).append(body)
    return blocks


@pytest.fixture
def ratings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Sixty users of an own data set, as ``ratings.csv`` in the working folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = [(u, i) for u in range(60) for i in rng.choice(30, 8, replace=False)]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id"])
    frame["time"] = np.arange(len(frame))
    frame.to_csv("ratings.csv", index=False)
    return frame


SHORT = ["engine.name=serial", "rounds.count=2", "model.embedding_dim=4"]


def test_own_data_in_three_lines(
    snippets: dict[str, list[str]], ratings: pd.DataFrame, tmp_path: Path
) -> None:
    (data,) = [block for block in snippets["yaml"] if block.startswith("data:")]
    assert len(data.strip().splitlines()) == 4  # the section's name and three lines
    done = fedrec.run(load_experiment(yaml.safe_load(data), SHORT), out=tmp_path / "csv")
    assert done.result["users"] == 60


def test_own_data_frame(
    snippets: dict[str, list[str]], ratings: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = [block for block in snippets["python"] if "Frame.of" in block]
    short = code.replace(
        "data=Frame.of", "engine={'name': 'serial'}, rounds={'count': 2}, data=Frame.of"
    )
    assert short != code
    exec(compile(short, "README.md", "exec"), {"ratings": ratings})
    assert fedrec.load("runs/mine").result["rounds"] == 2


def test_own_model_in_twenty_lines(
    snippets: dict[str, list[str]],
    ratings: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (code,) = [block for block in snippets["python"] if "class BiasedMF" in block]
    assert len(code.strip().splitlines()) <= 24
    Path("biased.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    (data,) = [block for block in snippets["yaml"] if block.startswith("data:")]
    document = yaml.safe_load(data) | {
        "model": {"name": "biased:BiasedMF", "embedding_dim": 16},
        "personalization": "plgc",
        "strategy": "fedadam",
    }
    short = ["engine.name=serial", "rounds.count=2"]
    done = fedrec.run(load_experiment(document, short), out=tmp_path / "own")
    assert set(done.result["metrics"]["views"]) == {"global", "local"}
    assert len(done.recommend("3", k=2)) == 2
    verdicts = {verdict for verdict, _, _ in check(load_plugin("biased.py:BiasedMF"))}
    assert verdicts == {"passed", "not applicable"}
