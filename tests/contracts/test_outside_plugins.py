"""Client models of the user's own, in files beside a YAML file: short, checked, and run."""

import ast
import runpy
import shutil
from pathlib import Path

import pytest

import fedrec
from fedrec.config.experiment import load_experiment
from fedrec.testing import check, load_plugin

OUTSIDE = Path(__file__).parent / "outside"
PLUGINS = {
    "two_layers.py:TwoLayers": 15,
    "vbpr.py:VBPR": 40,
    "content_only.py:ContentOnly": 20,
    "own_loss.py:SquaredErrors": 5,
    "own_negatives.py:OfTheSameGenre": 10,
    "dropout.py:WithDropout": 10,
    "own_head.py:OwnHead": 5,
}
"""How many lines of code each class may have."""

every_plugin = pytest.mark.parametrize("plugin", PLUGINS)


@pytest.fixture
def folder(users_folder: Path) -> Path:
    """A user's folder: plug-ins, YAML files and data."""
    shutil.copytree(OUTSIDE, users_folder, dirs_exist_ok=True)
    runpy.run_path("make_data.py")
    return users_folder


@every_plugin
def test_a_class_is_short(plugin: str) -> None:
    file, _, name = plugin.partition(":")
    source = (OUTSIDE / file).read_text(encoding="utf-8")
    (found,) = (n for n in ast.parse(source).body if getattr(n, "name", "") == name)
    code = ast.unparse(found)  # without comments and empty lines
    assert len(source.splitlines()[found.lineno - 1 : found.end_lineno]) <= 1.5 * PLUGINS[plugin]
    assert len(code.splitlines()) - code.count("\n\n") <= PLUGINS[plugin]


@every_plugin
def test_every_contract_holds(plugin: str, folder: Path) -> None:
    assert [each for each in check(load_plugin(plugin)) if each[0] == "failed"] == []


@every_plugin
def test_it_runs_from_a_yaml_file(plugin: str, folder: Path) -> None:
    model = plugin.replace(".py:", ":")
    run = fedrec.run(load_experiment(folder / "content.yaml", [f"model={model}", "rounds.count=3"]))
    assert run.result["status"] == "completed"
    losses = [record.loss or 0.0 for record in run.rounds()]
    assert losses[-1] < losses[0]
    assert len(run.recommend("0", 5)) == 5
    assert f"source/{plugin.partition(':')[0]}" in {str(f) for f in run.result["files"]}


def test_cold_items_are_ranked_by_their_content(folder: Path) -> None:
    """Films of the genre and of the years that a user likes stand before others."""
    sets = ["model=content_only:ContentOnly", "rounds.count=40", "data.split.cold_items=0.1"]
    run = fedrec.run(load_experiment(folder / "content.yaml", [*sets, "evaluate.slices=[cold]"]))
    assert run.result["metrics"]["test"]["ndcg@10[cold]"] > 0.8
