"""Methods on real engines: what strategies ask of the wire, client models, personalizations."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

import fedrec
from fedrec.config.experiment import load_experiment
from fedrec.runs.reader import RunFolder
from tests.planted import rates

pytest.importorskip("ray", reason="needs the extra 'sim'")

pytestmark = pytest.mark.slow

DOCUMENT: dict[str, Any] = {
    "data": {
        "name": "synthetic",
        "users": 30,
        "items": 40,
        "taste_groups": 2,
        "rank": 2,
        "interactions_per_user": 8.0,
    },
    "model": {"name": "mf", "embedding_dim": 4, "init_std": 0.1},
    "train": {"optimizers": rates(0.2), "local_epochs": 2, "backend": "torch"},
    "rounds": {"count": 5, "cohort_fraction": 0.7},
    "evaluate": {"every": 2, "metrics": ["ndcg@5", "hit_rate@5"]},
}
STRATEGIES: dict[str, dict[str, Any]] = {
    "scaffold": {"server_optimizer": {"lr": 5.0}},
    "median": {},
    "clustered": {"clusters": 2, "warmup": 2, "share": 0.2},
}

CONTENT_MODELS: dict[str, dict[str, Any]] = {
    "vbpr": {"content_dim": 4},
    "late_fusion": {},
    "gate": {"gate": "user"},
    "metammf": {"form": "cp"},
    "cm3": {"hidden_dim": 8},
    "lirdrec": {"hidden_dim": 8},
}
PERSONALIZATIONS = {
    "ditto": {},
    "interpolation": {},
    "fedrep": {},
    "additive": {},
    "finetune": {},
    "plgc": {"branch": "similarity"},
}


def go(out: Path, strategy: str, engine: str) -> fedrec.RunResult:
    document = {
        **DOCUMENT,
        "strategy": {"name": strategy, **STRATEGIES[strategy]},
        "engine": {"name": engine, "workers": 2, "nodes": 4},
    }
    return fedrec.run(load_experiment(document), out=out / engine)


def same(a: fedrec.RunResult, b: fedrec.RunResult) -> None:
    assert a.result["digest"] == b.result["digest"]
    assert a.result["metrics"] == b.result["metrics"]
    assert a.result["best_round"] == b.result["best_round"]
    models = [RunFolder(each.folder).model() for each in (a, b)]
    assert ("item@bases" in models[0]) == (a.result["strategy"] == "clustered")
    assert {n: v.tobytes() for n, v in models[0].items()} == {
        n: v.tobytes() for n, v in models[1].items()
    }
    assert [a.recommend(user, 5) for user in ("0", "29")] == [
        b.recommend(user, 5) for user in ("0", "29")
    ]


@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ray_has_the_bits_of_serial(strategy: str, tmp_path: Path) -> None:
    same(go(tmp_path, strategy, "serial"), go(tmp_path, strategy, "ray"))


def test_flowers_own_runtime_has_the_bits_of_serial(tmp_path: Path) -> None:
    """With groups, which have values of their own, and with every client's update."""
    same(go(tmp_path, "clustered", "serial"), go(tmp_path, "clustered", "flower"))


def close(tmp_path: Path, document: dict[str, Any]) -> None:
    """Run on both engines with equal nodes and chunks; compare all that is trained, and ranks."""
    runs, clients = [], []
    for name in ("serial", "ray"):
        engine = {"name": name, "workers": 2, "nodes": 2, "chunk": 4}
        runs.append(
            fedrec.run(load_experiment({**document, "engine": engine}), out=tmp_path / name)
        )
        clients.append(runs[-1].per_user())
    ours, theirs = (load_file(run.folder / "model.safetensors") for run in runs)
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=1e-5, err_msg=name)
    pd.testing.assert_frame_equal(clients[0], clients[1])


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    """Features of the items of `DOCUMENT`, from a file."""
    text, image = np.random.default_rng(0).normal(size=(2, 40, 6)).astype(np.float32)
    np.savez(tmp_path / "made.npz", ids=np.arange(40), text=text, image=image)
    path = str(tmp_path / "made.npz")
    return {
        name: {"name": "file", "path": path, "by_row": False, "ids": "ids", "array": name}
        for name in ("text", "image")
    }


@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize("model", CONTENT_MODELS)
def test_content_models_with_plgc_train_alike_on_ray(
    model: str, tmp_path: Path, content: dict[str, Any]
) -> None:
    mode = "decoupled" if model == "cm3" else "joint"
    document: dict[str, Any] = {
        **DOCUMENT,
        "features": content,
        "model": {"name": model, "embedding_dim": 4, "init_std": 0.1, **CONTENT_MODELS[model]},
        "train": {"optimizers": {**rates(0.2), "shared": {"name": "sgd", "lr": 0.2}}},
        "personalization": {"name": "plgc", "branch": "similarity", "mode": mode},
    }
    close(tmp_path, document)


@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize("name", PERSONALIZATIONS)
def test_personalizations_train_alike_on_ray(name: str, tmp_path: Path) -> None:
    model = "neumf" if name == "fedrep" else "mf"
    document = {
        **DOCUMENT,
        "model": {"name": model, "embedding_dim": 4},
        "personalization": {"name": name, **PERSONALIZATIONS[name]},
    }
    close(tmp_path, document)
