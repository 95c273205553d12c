"""Models beside matrix factorisation on the whole road: run folder, ranking, PLGC, nodes, Ray."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import fedrec
from fedrec.config.experiment import load_experiment
from fedrec.errors import DataError
from tests.planted import rates

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "pfedrec": ("numba", {"name": "pfedrec", "embedding_dim": 4, "init_std": 0.1}),
    "neumf": ("vmap", {"name": "neumf", "embedding_dim": 4, "layers": [6, 4]}),
    "private": ("vmap", {"name": "neumf", "embedding_dim": 4, "layers": [4], "head": "private"}),
    "sasrec": ("vmap", {"name": "sasrec", "embedding_dim": 4, "max_len": 6, "blocks": 1}),
    "routed": ("loop", {"name": "tests.contracts.own_models:Routed"}),
}
PLGC = {
    "none": {"name": "none"},
    "kernel": {"name": "plgc", "branch": "similarity", "decorrelation": 0.01},
    "table": {"name": "plgc", "branch": "table", "balance": "residual"},
}
CLIENTS = {"user": {"by": "user"}, "groups": {"by": "random", "count": 6}}


def go(out: Path, model: dict[str, Any], own: str, clients: str, **engine: Any) -> fedrec.RunResult:
    document = {
        "data": {
            "name": "synthetic",
            "users": 20,
            "items": 30,
            "taste_groups": 2,
            "rank": 2,
            "interactions_per_user": 8.0,
        },
        "clients": CLIENTS[clients],
        "model": model,
        "train": {"optimizers": rates(0.05), "batch_size": 4},
        "personalization": PLGC[own],
        "rounds": {"count": 2},
        "evaluate": {"every": 1, "metrics": ["ndcg@5", "coverage@5"]},
        "engine": {"name": "serial", **engine},
    }
    return fedrec.run(load_experiment(document), out=out)


def result(done: fedrec.RunResult) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((done.folder / "result.json").read_text(encoding="utf-8"))
    return document


def same_to_rounding(one: fedrec.RunResult, other: fedrec.RunResult) -> None:
    ours, theirs = (load_file(each.folder / "model.safetensors") for each in (one, other))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("own", PLGC)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_goes_the_whole_road(name: str, own: str, tmp_path: Path) -> None:
    kernel, model = MODELS[name]
    clients = "user" if own == "table" else "groups"
    done = go(tmp_path / "run", model, own, clients)
    about = result(done)
    assert about["status"] == "completed"
    assert about["executor"] in (kernel, "flat" if kernel == "numba" else kernel)
    assert len(done.recommend("3", 4)) == 4
    assert set(about["metrics"]["views"]) == (set() if own == "none" else {"global", "local"})


@pytest.mark.parametrize("name", MODELS)
def test_who_hosts_the_clients_makes_no_difference(name: str, tmp_path: Path) -> None:
    one = go(tmp_path / "one", MODELS[name][1], "kernel", "groups")
    other = go(tmp_path / "other", MODELS[name][1], "kernel", "groups", nodes=3, chunk=2)
    same_to_rounding(one, other)
    if MODELS[name][0] != "vmap":
        assert result(one)["digest"] == result(other)["digest"]


def test_sasrec_refuses_data_without_order(tmp_path: Path) -> None:
    rows = [f"{user} {item}" for user in range(8) for item in range(user % 3, user % 3 + 5)]
    table = tmp_path / "plain.tsv"
    table.write_text("\n".join(["user item", *rows]), encoding="utf-8")
    document = {
        "data": {
            "name": "csv",
            "path": str(table),
            "separator": " ",
            "columns": {"user": "user", "item": "item"},
        },
        "model": {"name": "sasrec", "embedding_dim": 4},
        "engine": {"name": "serial"},
    }
    with pytest.raises(DataError, match=r"SASRec looks at the order .*columns\.timestamp"):
        fedrec.run(load_experiment(document), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("shared_ray")
def test_ray_gives_what_the_serial_engine_gives(name: str, tmp_path: Path) -> None:
    one = go(tmp_path / "serial", MODELS[name][1], "kernel", "user")
    other = go(tmp_path / "ray", MODELS[name][1], "kernel", "user", name="ray", workers=2)
    same_to_rounding(one, other)
    if MODELS[name][0] != "vmap":
        assert result(one)["digest"] == result(other)["digest"]
