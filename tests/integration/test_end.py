"""Phases at the end of a run: after its rounds, from the chosen one, and once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrec
from fedrec.errors import RunFolderError
from fedrec.evaluation.scorer import UserScorer
from fedrec.report import markdown
from fedrec.runs.log import read_log
from fedrec.training.clients import train_clients
from fedrec.training.end import begin_end
from tests.integration.stopped_runs import SMALL, go, go_on, outcome, rounds_of, stopped
from tests.integration.test_resume import PHOTOGRAPHED
from tests.integration.test_run_serial import merged

FINE = {"name": "finetune", "epochs": 2, "pull": 0.1}
HEAD = {"name": "fedrep", "final_epochs": 3}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> fedrec.RunResult:
    return go(tmp_path_factory.mktemp("plain") / "run", personalization={"name": "none"})


@pytest.fixture(scope="module")
def fine(tmp_path_factory: pytest.TempPathFactory) -> fedrec.RunResult:
    return go(tmp_path_factory.mktemp("fine") / "run", personalization=FINE)


def test_its_rounds_are_those_without_it(plain: fedrec.RunResult, fine: fedrec.RunResult) -> None:
    assert rounds_of(fine.folder) == rounds_of(plain.folder)
    for name in ("digest", "best_round", "rounds", "status"):
        assert fine.result[name] == plain.result[name]


def test_the_result_is_the_ranking_after_it_beside_the_one_before(
    plain: fedrec.RunResult, fine: fedrec.RunResult
) -> None:
    before, after = plain.result["metrics"], fine.result["metrics"]
    assert after["test"] != before["test"]
    # As of other views, there is no exposure.
    of_users = {name: before["test"][name] for name in ("ndcg@5", "hit_rate@5")}
    assert after["views"]["before_end"] == of_users
    assert fine.result["end"]["before"] == before
    assert fine.result["end"]["round"] == plain.result["best_round"]
    users, reference = fine.per_user(), plain.per_user()
    for column in ("valid.ndcg@5", "test.hit_rate@5"):
        part, metric = column.split(".")
        assert users[f"{part}.before_end.{metric}"].equals(reference[column])
    assert users["test.ndcg@5"].mean() == pytest.approx(after["test"]["ndcg@5"])


def test_clients_rank_with_what_they_trained(
    plain: fedrec.RunResult, fine: fedrec.RunResult
) -> None:
    """From what the plain run left behind of its best round, by hand."""
    task = fine.experiment.client_task().at_end()
    split, params = plain.split, plain.model()
    shard = split.shard(np.arange(split.n_clients))
    private = {"user": plain.local("user")["user"]}
    begun = begin_end(task, shard, params, private)
    _, after = train_clients(task, shard, params, begun, plain.result["best_round"])
    stored = {per: fine.local(per) for per in ("user", "positive")}
    np.testing.assert_array_equal(stored["user"]["user"], after["user"])
    np.testing.assert_array_equal(stored["positive"]["copy.item"], after["copy.item"])
    scores = UserScorer(task, shard, params, after)(np.array([0]))["mixed"][0].numpy()
    first = fine.recommend(str(split.user_ids[0]), k=1)[0]
    masked = np.concatenate([split.train.row(0), split.valid.row(0)])
    scores[masked] = -np.inf
    assert first.item == split.item_ids[scores.argmax()]
    assert first.score == pytest.approx(float(scores.max()))


def test_no_epoch_is_the_run_without_it(plain: fedrec.RunResult, tmp_path: Path) -> None:
    none = go(tmp_path / "run", personalization={"name": "finetune", "epochs": 0})
    assert outcome(none.folder) == outcome(plain.folder)
    assert "end" not in none.result


@pytest.mark.parametrize("form", [FINE, HEAD], ids=lambda form: str(form["name"]))
def test_no_value_depends_on_the_nodes(form: dict[str, Any], tmp_path: Path) -> None:
    several = {"clients": {"by": "random", "count": 9}, "personalization": form}
    runs = [
        go(tmp_path / str(nodes), **several, engine={"name": "serial", "nodes": nodes})
        for nodes in (1, 3)
    ]
    first, second = (outcome(run.folder) for run in runs)
    first.pop("log"), second.pop("log")
    assert first == second
    assert runs[0].result["metrics"]["test"] != runs[0].result["end"]["before"]["test"]


def test_groups_begin_with_what_theirs_is_sent(tmp_path: Path) -> None:
    strategy = {"name": "clustered", "clusters": 2, "warmup": 1, "buckets": 8}
    evaluate = {"every": 1, "metrics": ["ndcg@5"]}
    run = go(tmp_path / "run", personalization=FINE, strategy=strategy, evaluate=evaluate)
    assert len(run.local("positive")["copy.item"]) == len(run.split.train.values)
    assert run.recommend(str(run.split.user_ids[3]), k=2)


def test_a_run_that_is_stopped_after_its_rounds_goes_on_to_the_end(
    fine: fedrec.RunResult, tmp_path: Path
) -> None:
    folder = stopped(tmp_path / "run", 4, personalization=FINE)
    assert outcome(go_on(folder).folder) == outcome(fine.folder)


def test_a_run_that_is_extended_comes_to_another_end(
    fine: fedrec.RunResult, tmp_path: Path
) -> None:
    short = go(tmp_path / "run", personalization=FINE, rounds={"count": 2})
    assert short.result["end"]["round"] == 2
    extended = go_on(short.folder, "rounds.count=4")
    assert outcome(extended.folder) == outcome(fine.folder)


@pytest.mark.slow
def test_a_run_killed_between_any_two_writes_comes_to_the_same_end(
    fine: fedrec.RunResult, tmp_path: Path
) -> None:
    shots, expected = tmp_path / "shots", outcome(fine.folder)
    shots.mkdir()
    config = json.dumps(merged(SMALL, {"personalization": FINE}))
    call = [sys.executable, "-c", PHOTOGRAPHED, config, str(tmp_path / "run"), str(shots)]
    subprocess.run(call, check=True, timeout=120)
    tried = 0
    for shot in sorted(shots.iterdir()):
        log = shot / "rounds.jsonl"
        if log.exists() and len(read_log(log)) == 4:
            assert outcome(go_on(shot).folder) == expected, shot.name
            tried += 1
    assert tried >= 4


def test_what_the_end_begins_with_must_be_there(tmp_path: Path) -> None:
    folder = stopped(tmp_path / "run", 4, personalization=FINE)
    best = fedrec.load(folder).result["best_round"]
    for path in (folder / "local").glob(f"node-001*@{best}.safetensors"):
        path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(RunFolderError, match=rf"node-001@{best}\.safetensors: .*damaged"):
        go_on(folder)


def test_a_report_compares_the_end_with_the_chosen_round(fine: fedrec.RunResult) -> None:
    text = markdown([fine.folder])
    assert "at the end against the chosen round" in text
    assert "↳ before the end" in text
