"""Whole runs with cold items and slices: log, result, values of users, report, and a later end."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrec
from fedrec.errors import ConfigError
from fedrec.report import markdown

SLICES = ("head", "tail", "cold", "cold_among_all")
SECTIONS: dict[str, Any] = {
    "data": {"name": "synthetic", "users": 60, "items": 80, "split": {"cold_items": 0.2}},
    "model": {"name": "mf", "embedding_dim": 8},
    "personalization": {"name": "plgc"},
    "rounds": {"count": 6, "patience": None},
    "evaluate": {
        "every": 1,
        "metrics": ["ndcg@5", "recall@5", "coverage@5"],
        "slices": list(SLICES),
        "choose_on": "cold",
    },
    "engine": "serial",
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> fedrec.RunResult:
    return fedrec.run(SECTIONS, out=tmp_path_factory.mktemp("slices") / "run")


def test_every_slice_stands_everywhere(done: fedrec.RunResult) -> None:
    metrics, users = done.result["metrics"], done.per_user()
    sizes, levels = done.result["slices"], done.result["reference"]["chance"]
    for name in ("", *SLICES):
        suffix = f"[{name}]" if name else ""
        for part in ("valid", "test"):
            values = users[f"{part}.ndcg@5{suffix}"].dropna()
            assert metrics[part][f"ndcg@5{suffix}"] == pytest.approx(values.mean(), rel=1e-12)
            assert 0 < levels[part][f"ndcg@5{suffix}"] < 1
            if name:
                assert sizes[name]["users"][part] == len(values) > 0
        for view in ("global", "local"):
            of_view = users[f"test.{view}.recall@5{suffix}"]
            assert metrics["views"][view][f"recall@5{suffix}"] == pytest.approx(of_view.mean())
    assert 0 <= metrics["test"]["cold_share@5[cold_among_all]"] <= 1
    assert sizes["head"]["items"] + sizes["tail"]["items"] == done.split.n_drawn
    assert sizes["cold"]["items"] == done.split.n_cold
    assert "test.ndcg@5[cold]" in done.curve()


def test_a_slice_chooses_the_round(done: fedrec.RunResult, tmp_path: Path) -> None:
    scores = done.curve()["valid.ndcg@5[cold]"]
    assert done.result["best_round"] == scores.idxmax()
    assert done.result["metrics"]["valid"]["ndcg@5[cold]"] == scores.max()
    short = fedrec.run({**SECTIONS, "rounds": {"count": 3, "patience": None}}, out=tmp_path / "run")
    longer = fedrec.resume(short.folder, sets=["rounds.count=6"])
    assert longer.result["best_round"] == done.result["best_round"]
    assert longer.result["metrics"] == done.result["metrics"]
    assert longer.result["digest"] == done.result["digest"]


def test_a_report_shows_each_slice(done: fedrec.RunResult, tmp_path: Path) -> None:
    baseline = {**SECTIONS, "model": {"name": "popularity"}}
    for section in ("personalization", "rounds", "engine"):
        baseline.pop(section)
    other = fedrec.run(baseline, out=tmp_path / "popularity")
    text = markdown([done.folder, other.folder], "popularity")
    for words in (
        "head items",
        "tail items",
        "cold items among themselves",
        "cold items among all",
    ):
        assert f"**Test metrics of {words}" in text
        assert f"**Test NDCG@5 of {words}" in text
    assert "Best" in text and "chance" in text


def test_ranks_are_those_of_the_published_scores(done: fedrec.RunResult) -> None:
    split, users = done.split, done.per_user().set_index("user")
    order = done.recommend_all(split.n_items)
    rank = {(user, item): place for user, place, item, _ in order.itertuples(index=False)}
    is_cold = np.arange(split.n_items) >= split.n_drawn
    for user in range(split.n_users):
        raw, cold = split.user_ids[user], split.test.row(user)
        cold = cold[is_cold[cold]]
        if len(cold):
            ranks = np.array([rank[raw, split.item_ids[item]] for item in cold])
            expected = np.count_nonzero(ranks <= 5) / len(ranks)
            assert users.loc[raw, "test.recall@5[cold_among_all]"] == expected


def test_protocol_legacy_has_no_slices(tmp_path: Path) -> None:
    data = {"name": "synthetic", "users": 40, "items": 300, "protocol": "legacy"}
    with pytest.raises(ConfigError, match=r"evaluate\.slices: protocol legacy ranks no slices"):
        fedrec.run({"data": data, "evaluate": {"slices": ["tail"]}}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
