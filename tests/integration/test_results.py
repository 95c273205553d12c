"""What a researcher gets from a run in Python."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrec
from fedrec.errors import ConfigError
from fedrec.report.runs import load
from tests.integration.stopped_runs import SMALL, go


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> fedrec.RunResult:
    return go(tmp_path_factory.mktemp("run") / "run")


def test_the_curve_is_the_log(done: fedrec.RunResult) -> None:
    curve = done.curve()
    assert curve.index.tolist() == [1, 2, 3, 4]
    best = done.result["best_round"]
    for part in ("valid", "test"):
        for label, value in done.result["metrics"][part].items():
            assert curve.loc[best, f"{part}.{label}"] == value
    assert curve["valid.ndcg@5"].notna().tolist() == [False, True, False, True]


def test_recommend_all_says_what_recommend_says(done: fedrec.RunResult) -> None:
    table = done.recommend_all(5)
    users = done.per_user()["user"].tolist()
    assert table["user"].drop_duplicates().tolist() == users
    for user in users[::5]:
        of_user = table[table["user"] == user]
        expected = done.recommend(user, 5)
        assert of_user["item"].tolist() == [each.item for each in expected]
        assert of_user["rank"].tolist() == list(range(1, len(expected) + 1))
        np.testing.assert_allclose(of_user["score"], [e.score for e in expected], rtol=1e-5)


def test_embeddings_are_by_raw_id(done: fedrec.RunResult) -> None:
    items, users = done.embeddings(), done.embeddings("user")
    assert items.shape == (done.result["items"], 8) and users.shape == (done.result["users"], 8)
    assert sorted(users.index) == sorted(done.per_user()["user"])
    assert set(done.recommend_all(3)["item"]) <= set(items.index)


def test_a_notebook_shows_the_scores(done: fedrec.RunResult) -> None:
    html = done._repr_html_()
    assert "ndcg@5" in html and "seed 0" in html and "<table" in html


def test_several_seeds_are_several_runs(tmp_path: Path) -> None:
    runs = fedrec.run(SMALL, seed=[1, 2], out=tmp_path / "runs")
    assert [run.result["seed"] for run in runs] == [1, 2]
    assert [run.folder.name for run in runs] == ["seed1", "seed2"]
    summary = runs.summary()
    values = [run.result["metrics"]["test"]["ndcg@5"] for run in runs]
    assert summary.loc["test.ndcg@5", "mean"] == pytest.approx(np.mean(values))
    assert summary.loc["test.ndcg@5", "sd"] == pytest.approx(np.std(values, ddof=1))
    one = fedrec.run(SMALL, seed=1, out=tmp_path / "one")
    assert one.result["digest"] == runs[0].result["digest"]
    for wrong in ([], [1, 1]):
        with pytest.raises(ConfigError, match="each once"):
            fedrec.run(SMALL, seed=wrong, out=tmp_path / "no")
    with pytest.raises(ConfigError, match="seed"):
        fedrec.run(SMALL, seed=-1, out=tmp_path / "no")


@pytest.mark.parametrize(
    ("seed", "read"), [("12", 12), (np.int64(3), 3), (np.arange(2), [0, 1]), (iter([5, 7]), [5, 7])]
)
def test_seeds_are_read_as_in_the_command_line(seed: Any, read: Any, tmp_path: Path) -> None:
    runs: Any = fedrec.run({**SMALL, "model": "popularity"}, seed=seed, out=tmp_path / "runs")
    several = runs if isinstance(read, list) else [runs]
    assert [run.experiment.seed for run in several] == np.atleast_1d(read).tolist()


@pytest.mark.parametrize("seed", [[1, "1"], [2, 2], [], ""])
def test_a_seed_is_given_once(seed: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed"):
        fedrec.run({**SMALL, "model": "popularity"}, seed=seed, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_runs_on_equal_data_are_compared_wherever_the_file_lay(tmp_path: Path) -> None:
    runs = []
    for name, n_users in (("one", 12), ("two", 12), ("three", 11)):
        path = tmp_path / f"{name}.csv"
        rows = [f"{u},{i}" for u in range(n_users) for i in range(u % 3, 20, 2)]
        path.write_text("\n".join(["user,item", *rows]), encoding="utf-8")
        data = {"name": "csv", "path": str(path), "columns": {"user": "user", "item": "item"}}
        done = fedrec.run({"data": data, "model": "popularity"}, out=tmp_path / name)
        runs.append(done.folder)
    sections = load(runs).sections
    assert sorted(sum(len(g.runs) for g in section) for section in sections) == [1, 2]


CALLS: tuple[Callable[[Any, Any], object], ...] = (
    lambda api, done: done.recommend("0", k="3"),
    lambda api, done: done.recommend("0", k=2.5),
    lambda api, done: done.recommend_all(k=None),
    lambda api, done: api.run(done.experiment, out=3),
    lambda api, done: api.run(done.experiment, out=done.folder / "no", on_round=3),
    lambda api, done: api.resume(done.folder, say="x"),
    lambda api, done: api.resume(None),
    lambda api, done: api.load(None),
)


@pytest.mark.parametrize("call", CALLS)
def test_an_argument_of_a_wrong_type_is_one_line(
    call: Callable[[Any, Any], object], done: fedrec.RunResult
) -> None:
    with pytest.raises(ConfigError, match="expected ") as caught:
        call(fedrec, done)
    assert "\n" not in str(caught.value)
    assert not (done.folder / "no").exists()


def test_a_user_is_named_as_a_column_of_numbers_names_it(done: fedrec.RunResult) -> None:
    assert done.recommend(3.0) == done.recommend(float(np.float32(3))) == done.recommend("3")
