"""What strategies ask of the wire, on real engines: several messages to a node, every update."""

from pathlib import Path
from typing import Any

import pytest

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
    "scaffold": {"server_lr": 5.0},
    "median": {},
    "clustered": {"clusters": 2, "warmup": 2, "share": 0.2},
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
    assert ("item@1" in models[0]) == (a.result["strategy"] == "clustered")
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
    """With groups, so that a node gets two messages at once, and with every client's update."""
    same(go(tmp_path, "clustered", "serial"), go(tmp_path, "clustered", "flower"))
