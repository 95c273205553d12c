"""The features of the items reach every process, and a run goes on with no others."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrec
from clients.node import Node
from fedrec.config.experiment import load_experiment
from fedrec.config.yaml import parse_yaml
from fedrec.data.catalogue import Catalogue
from fedrec.errors import FedRecError
from fedrec.features import Encoder
from fedrec.plugins import table
from fedrec.runs.log import read_checkpoint
from fedrec.runs.result import RunResult
from fedrec.testing import load_plugin
from tests.integration.stopped_runs import go, go_on

VALUES = np.random.default_rng(1).normal(size=(80, 6)).astype(np.float32)
COLD = {"tall": {"name": "file", "by_row": False, "ids": "ids", "array": "rows", "pca": 3}}


def section(folder: Path, values: Any = VALUES) -> dict[str, Any]:
    np.savez(folder / "made.npz", rows=values, ids=np.arange(len(values)))
    return {"tall": {**COLD["tall"], "path": str(folder / "made.npz")}}


def test_every_node_and_the_checkpoint_know_the_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes, build = list[Node](), Node.__init__

    def watched(self: Node, *arguments: Any) -> None:
        build(self, *arguments)
        nodes.append(self)

    monkeypatch.setattr(Node, "__init__", watched)
    run = go(tmp_path / "run", features=section(tmp_path), rounds={"count": 2})
    catalogue = run.catalogue
    assert catalogue.feature("tall").shape == (run.result["items"], 3)
    assert len(nodes) == 2
    assert {node.task.catalogue for node in nodes} == {catalogue}
    checkpoint = read_checkpoint(run.folder)
    assert checkpoint is not None and checkpoint.origin.catalogue == catalogue.hash
    assert "features.safetensors" in run.result["files"]
    assert run.result["features"][0].startswith("features.tall: 30 of 30 items have it; 3 numbers")
    unread = "features.tall: has no effect: MatrixFactorization reads no feature of that name"
    assert unread in run.result["warnings"]
    plain = go(tmp_path / "plain", rounds={"count": 2})
    assert plain.catalogue.hash != catalogue.hash


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "flower"])
def test_features_reach_the_workers_of_other_engines(engine: str, tmp_path: Path) -> None:
    """A node that had other features would be refused when the roll is called."""
    changes = {"features": section(tmp_path), "engine": {"name": engine, "workers": 2}}
    assert go(tmp_path / "run", **changes).result["status"] == "completed"


def test_a_run_goes_on_with_its_features_and_with_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = section(tmp_path)
    folder = go(tmp_path / "run", features=features, rounds={"count": 2}).folder
    expected = go(tmp_path / "all", features=features, rounds={"count": 4}).result["digest"]
    made = tmp_path / "made.npz"
    content = made.read_bytes()
    section(tmp_path, VALUES[::-1])
    with pytest.raises(FedRecError, match=r"features are those of another catalogue") as raised:
        go_on(folder, "rounds.count=4")
    assert "\n" not in str(raised.value)
    with pytest.raises(FedRecError, match=r"features\.tall\.pca is 2, was 3"):
        go_on(folder, "rounds.count=4", "features.tall.pca=2")
    made.unlink()
    with monkeypatch.context() as patch:
        patch.setenv("FEDREC_CACHE", str(tmp_path / "empty"))
        go_on(folder, "rounds.count=3")
    (tmp_path / "elsewhere.npz").write_bytes(content)
    go_on(folder, f"features.tall.path={tmp_path / 'elsewhere.npz'}", "rounds.count=4")
    assert RunResult(folder).result["digest"] == expected
    assert RunResult(folder).catalogue.feature("tall").shape[1] == 3
    (folder / "features.safetensors").unlink()
    (tmp_path / "elsewhere.npz").unlink()
    with pytest.raises(FedRecError, match=r"features\.tall: .*elsewhere.npz: no such file"):
        go_on(folder, "rounds.count=5")


def test_a_function_beside_the_experiment_belongs_to_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    source = tmp_path / "made_features.py"
    source.write_text("def lengths(ids, columns):\n    return [[len(each)] for each in ids]\n")
    feature = {"name": "callable", "function": "made_features:lengths", "normalize": "none"}
    run = go(tmp_path / "run", features={"length": feature}, rounds={"count": 1})
    lengths = run.catalogue.feature("length")[:, 0]
    assert lengths.tolist() == [len(each) for each in run.split.item_ids]
    assert (run.folder / "source" / "made_features.py").read_text() == source.read_text()


def test_the_document_says_what_works(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (root / "docs" / "item-features.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    monkeypatch.setenv("FEDREC_DATA", str(tmp_path))
    experiment = load_experiment(parse_yaml(blocks["yaml"]))
    assert sorted(experiment.features) == ["poster", "text"]
    for name, kind in table("features").items():
        assert f"| `{name}` |" in text
        packaged = getattr(kind, "packaged", None)
        if packaged is not None and "efficientnet" not in name:
            assert packaged.command in text
            assert packaged.install in (root / ".ci" / "run").read_text(encoding="utf-8")
    (tmp_path / "mine.py").write_text(blocks["python"], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    encoder = load_plugin("mine:Lengths", ["columns=[title]"])
    assert isinstance(encoder, Encoder)
    items = Catalogue(np.array(["1", "2"], object), {"title": np.array(["a b c", ""], object)})
    assert encoder.encode(items, lambda *_: None).values.tolist() == [[5, 3], [0, 0]]


def test_what_is_too_large_to_copy_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fedrec.runs.prepare.KEPT_BYTES", 100)
    folder = go(tmp_path / "run", features=section(tmp_path), rounds={"count": 1}).folder
    assert "features: 0 MiB are not copied into the run folder" in caplog.text
    assert not (folder / "features.safetensors").exists()
    go_on(folder, "rounds.count=2")


def test_a_fault_of_the_features_stops_before_the_folder_is_made(tmp_path: Path) -> None:
    features = section(tmp_path, VALUES * np.nan)
    with pytest.raises(FedRecError, match=r"^features\.tall: .*made\.npz: the row of item"):
        fedrec.run(
            {"data": {"name": "synthetic", "users": 20}, "features": features},
            out=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()
