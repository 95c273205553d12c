"""Run folders with planted numbers, written by the code that runs write theirs with."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fedrec.runs.folder import CONFIG, HEADER, create, write_result
from fedrec.runs.log import RoundRecord, RunLog
from fedrec.storage.files import write_arrays
from fedrec.types import FloatArray

METRICS = ("ndcg@10", "hit_rate@10", "recall@10", "mrr", "coverage@10", "gini@10")
SCALE = {"ndcg@10": 1.0, "hit_rate@10": 1.85, "recall@10": 1.85, "mrr": 0.86}
USERS = 400
Maker = Callable[..., Path]


def config(method: str, seed: int, protocol: str, server_lr: float) -> dict[str, Any]:
    """A resolved experiment."""
    personalization: dict[str, Any] = {"name": method}
    if method == "plgc":
        personalization |= {"branch": "similarity", "balance": "alignment", "decorrelation": 0.0001}
    return {
        "seed": seed,
        "data": {
            "name": "ml-100k",
            "split": {"name": "leave_one_out", "seed": 0},
            "protocol": protocol,
        },
        "model": {"name": "mf", "embedding_dim": 32, "init_std": 0.01},
        "personalization": personalization,
        "strategy": {"name": "fedadam", "server_optimizer": {"lr": server_lr}},
        "rounds": {"count": 120, "cohort_size": "all", "patience": 10},
        "evaluate": {"every": 5, "metrics": list(METRICS)},
        "engine": {"name": "ray", "workers": 2, "nodes": 2},
    }


def values(level: float, exposure: bool) -> dict[str, float]:
    """Metric values around a level of NDCG."""
    by_metric = {name: level * factor for name, factor in SCALE.items()}
    return by_metric | ({"coverage@10": 0.31, "gini@10": 0.83} if exposure else {})


def evaluation(level: float, views: bool) -> dict[str, dict[str, dict[str, float]]]:
    """An evaluation whose validation is a little above its test."""
    by_view = {"mixed": {"valid": values(level * 1.08, False), "test": values(level, True)}}
    if views:
        for view, factor in (("global", 0.97), ("local", 0.71)):
            part = {"valid": values(level * 1.08 * factor, False)}
            by_view[view] = part | {"test": values(level * factor, False)}
    return by_view


def level_at(round: int, top: float, rng: np.random.Generator) -> float:
    """A learning curve: rises, then overfits a little."""
    rise = 1 - np.exp(-round / 22)
    return float(top * rise * (1 - 0.0006 * max(0, round - 70)) + rng.normal(0, 0.0006))


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Writes a run folder; see the arguments of the inner function."""

    def write(
        name: str,
        method: str = "none",
        seed: int = 0,
        top: float = 0.078,
        status: str = "completed",
        protocol: str = "clean",
        server_lr: float = 0.01,
        rounds: int = 120,
        model: str = "mf",
        centralised: bool = False,
        change: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        metrics: Sequence[str] | None = None,
        slices: Sequence[str] = (),
    ) -> Path:
        rng = np.random.default_rng([seed, len(name)])
        path = create(tmp_path / name)
        document = config(method, seed, protocol, server_lr)
        document["model"]["name"] = model
        document["data"] |= dict(data or {})
        document["evaluate"]["metrics"] = list(metrics or METRICS)
        if slices:
            document["evaluate"]["slices"] = list(slices)
        text = HEADER + yaml.safe_dump(document, sort_keys=False)
        (path / CONFIG).write_text(text, encoding="utf-8")
        best = 0
        score: dict[str, Any] = {}
        with closing(RunLog(path / "rounds.jsonl")) as log:
            for round in range(1, 0 if centralised else rounds + 1):
                evaluated = None
                if round % 5 == 0:
                    evaluated = evaluation(level_at(round, top, rng), method == "plgc")
                    if (
                        not score
                        or evaluated["mixed"]["valid"]["ndcg@10"] > score["valid"]["ndcg@10"]
                    ):
                        best, score = round, dict(evaluated["mixed"])
                        score["views"] = {
                            v: p["test"] for v, p in evaluated.items() if v != "mixed"
                        }
                log.append(
                    RoundRecord.model_validate(
                        {
                            "round": round,
                            "clients": USERS,
                            "failures": [],
                            "loss": 0.25 + 0.44 * float(np.exp(-round / 30)),
                            "seconds": {"train": 0.21, "evaluate": 0.4 if evaluated else 0.0},
                            "bytes": {"up": 431_000, "down": 463_000},
                            "evaluation": evaluated,
                        }
                    )
                )
        if centralised:
            score = {"valid": values(top * 1.08, False), "test": values(top, True), "views": {}}
        result = {
            "digest": f"{seed:02d}ab" * 16,
            "name": model if centralised else f"{method} + {model} + fedadam",
            "data": "ml-100k",
            "seed": seed,
            "users": USERS,
            "items": 300,
            "protocol": protocol,
            "ranking": "full" if protocol == "clean" else "99 sampled negatives",
            "centralised": centralised,
            "status": status,
            "best_round": None if centralised else best,
            "rounds": rounds,
            "metrics": score,
            "seconds": {"train": 25.2, "evaluate": 9.6, "total": 36.4 + seed},
            "clients_per_second": 4490.0,
            "bytes": {"up": 51_720_000, "down": 55_560_000},
            "bytes_per_client": {
                "up": 0.0 if centralised else 1077.5,
                "down": 0.0 if centralised else 1157.5,
            },
            "engine": {"name": "ray", "workers": 2, "nodes": 2},
            "versions": {"python": "3.11.2", "torch": "2.13.0", "flwr": "1.41.0"},
            "commit": "0123456789abcdef0123456789abcdef01234567+dirty",
            "hardware": {"cpu": "A processor", "cores": 2, "memory_gib": 15.6},
            "started": "2026-11-21T08:00:00+00:00",
            "finished": "2026-11-21T08:00:36+00:00",
            "citations": ["mcmahan2017communication", "harper2015movielens"],
        }
        finished = status in ("completed", "early_stop")
        if not finished:
            result |= {"metrics": {}, "best_round": None, "finished": None}
        if finished:
            _arrays(path, method, best, rng)
            _per_user(path, score["test"]["ndcg@10"], rng)
        write_result(path, result | dict(change or {}))
        return path

    return write


def _arrays(path: Path, method: str, best: int, rng: np.random.Generator) -> None:
    spectrum = np.exp(-np.arange(32) / 14)
    table = (rng.normal(size=(300, 32)) * spectrum).astype(np.float32)
    write_arrays(path / "model.safetensors", {"item": table}, {"round": str(best)})
    if method == "plgc":
        order = rng.permutation(USERS).astype(np.int64)
        weight = rng.beta(9, 4, USERS).astype(np.float32)
        for node in range(2):
            ids = order[node::2]
            vectors = rng.normal(size=(len(ids), 4))
            arrays: dict[str, FloatArray] = {
                "ids.user": ids,
                "lambda": weight[ids],
                "user": vectors,
            }
            about = {"per.lambda": "user", "per.user": "user"}
            write_arrays(path / "local" / f"node-{node}.safetensors", arrays, about)


def _per_user(path: Path, level: float, rng: np.random.Generator) -> None:
    pandas = pytest.importorskip("pandas", reason="the report needs the extra 'sim'")
    rank = rng.integers(1, 11, USERS)
    hit = rng.random(USERS) < level * 1.85
    frame = {
        "user": [str(user + 1) for user in range(USERS)],
        "client": np.arange(USERS),
        "n_train": np.sort(np.random.default_rng(0).geometric(0.012, USERS) + 17),
        "valid.ndcg@10": np.where(hit, 1 / np.log2(rank + 1), 0.0),
        "test.ndcg@10": np.where(hit, 1 / np.log2(rank + 1), 0.0),
    }
    pandas.DataFrame(frame).to_parquet(path / "per_user.parquet")
