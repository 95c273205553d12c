"""Whole runs on the serial engine: from an experiment to a run folder and recommendations."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrec
from fedrec.config.experiment import load_experiment
from fedrec.data import Synthetic
from fedrec.data.catalogue import Catalogue
from fedrec.data.prepare import open_split, split_of
from fedrec.errors import ClientFailure, ConfigError, DataError, RunFolderError
from fedrec.runs import prepare as prepare_module
from fedrec.runs.log import RoundRecord, read_log
from fedrec.training.initial_values import initial_local
from fedrec.types import Split
from tests.contracts.own_models import Fussy
from tests.planted import rates

DATA = {
    "name": "synthetic",
    "users": 40,
    "items": 50,
    "taste_groups": 2,
    "rank": 2,
    "interactions_per_user": 12.0,
}
BASE: dict[str, Any] = {
    "data": DATA,
    "model": {"name": "mf", "embedding_dim": 8, "init_std": 0.1},
    "train": {"optimizers": rates(0.1), "backend": "torch"},
    "rounds": {"count": 3},
    "evaluate": {"every": 1, "metrics": ["ndcg@5", "hit_rate@5", "coverage@5"]},
    "engine": {"name": "serial"},
}
PLGC = {"name": "plgc", "branch": "similarity", "balance": "alignment"}
OWN = "tests.contracts.own_models"


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Sections of the second on top of the first; a section with a name replaces the whole."""
    values = dict(base)
    for section, value in changes.items():
        keep = isinstance(value, dict) and isinstance(values.get(section), dict)
        values[section] = {**values[section], **value} if keep and "name" not in value else value
    return values


def go(out: Path, **changes: Any) -> fedrec.RunResult:
    return fedrec.run(load_experiment(merged(BASE, changes)), out=out)


@pytest.fixture(scope="module")
def plgc(tmp_path_factory: pytest.TempPathFactory) -> fedrec.RunResult:
    return go(tmp_path_factory.mktemp("plgc") / "run", personalization=PLGC)


# The run folder ------------------------------------------------------------------------------


def test_the_run_folder_is_complete(plgc: fedrec.RunResult) -> None:
    names = {path.name for path in plgc.folder.iterdir()}
    assert names == {
        "config.yaml",
        "rounds.jsonl",
        "result.json",
        "per_user.parquet",
        "model.safetensors",
        "checkpoint.safetensors",
        "local",
        "split.safetensors",
        "state",
    }
    assert not [path for path in plgc.folder.rglob("*") if path.suffix in (".pkl", ".pt")]


def test_the_result_has_the_keys_of_the_issue(plgc: fedrec.RunResult) -> None:
    result = plgc.result
    assert set(result["metrics"]) == {"test", "valid", "views"}
    assert set(result["metrics"]["test"]) == {"ndcg@5", "hit_rate@5", "coverage@5"}
    assert set(result["metrics"]["valid"]) == {"ndcg@5", "hit_rate@5"}
    assert set(result["metrics"]["views"]) == {"global", "local"}
    assert set(result["seconds"]) == {"train", "evaluate", "total"}
    assert set(result["bytes"]) == {"up", "down"}
    assert len(result["digest"]) == 64
    assert 1 <= result["best_round"] <= 3
    assert result["clients_per_second"] > 0
    assert result["protocol"] == "clean"
    assert result["engine"].items() >= {"name": "serial", "nodes": 1}.items()
    assert result["status"] == "completed"


def test_the_configuration_that_was_run_can_be_run_again(
    plgc: fedrec.RunResult, tmp_path: Path
) -> None:
    again = fedrec.run(plgc.folder / "config.yaml", out=tmp_path / "again")
    assert again.result["digest"] == plgc.result["digest"]
    assert again.result["metrics"] == plgc.result["metrics"]
    assert fedrec.load(again.folder).experiment == plgc.experiment


def test_the_mean_over_users_is_the_metric(plgc: fedrec.RunResult) -> None:
    from fedrec.runs.reader import RunFolder

    table = RunFolder(plgc.folder).per_user()
    assert len(table) == 40
    mean = table["test.ndcg@5"].mean()
    assert mean == pytest.approx(plgc.result["metrics"]["test"]["ndcg@5"])


def test_a_run_is_never_overwritten_by_accident(tmp_path: Path) -> None:
    first = go(tmp_path / "run", rounds={"count": 1})
    digest = first.result["digest"]
    with pytest.raises(RunFolderError, match=r"holds a run already; .*add --overwrite"):
        go(tmp_path / "run")
    changed = load_experiment(merged(BASE, {"rounds": {"count": 2}, "personalization": PLGC}))
    second = fedrec.run(changed, out=tmp_path / "run", overwrite=True)
    assert second.result["rounds"] == 2
    assert second.result["digest"] != digest


def test_a_process_reads_the_experiment_and_the_data_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(path: Path) -> Split:
        read.append(path)
        return open_split(path)

    monkeypatch.setattr(prepare_module, "open_split", counted)
    monkeypatch.setattr(prepare_module, "load_experiment", read.append)
    go(tmp_path / "run", engine={"nodes": 3})
    assert len(read) == 1


def test_scores_that_tell_no_items_apart_are_a_warning(tmp_path: Path) -> None:
    constant = go(tmp_path / "constant", model={"name": "mf", "init_std": 0.0})
    said = "ranks no test item better than scores that are all equal would"
    assert any(said in warning for warning in constant.result["warnings"])
    assert not any(said in warning for warning in go(tmp_path / "run").result["warnings"])


# Same seed, same bits ------------------------------------------------------------------------


FORMS: dict[str, dict[str, Any]] = {
    "none": {},
    "kernel": {"personalization": PLGC},
    "table": {"personalization": {"name": "plgc", "branch": "table", "decorrelation": 0.01}},
    "fedadam": {"strategy": {"name": "fedadam"}, "train": {"batch_size": 3, "local_epochs": 2}},
    "partial": {"rounds": {"cohort_fraction": 0.3}, "personalization": PLGC},
    "several": {"clients": {"by": "random", "count": 7}, "personalization": PLGC},
    "dense": {"model": f"{OWN}:BiasedMF"},
    "loop": {"model": f"{OWN}:SmallNet", "clients": {"by": "random", "count": 9}},
}


@pytest.mark.parametrize("form", FORMS)
def test_nodes_and_chunks_change_no_bit_and_the_seed_does(form: str, tmp_path: Path) -> None:
    changes = FORMS[form]
    runs = [
        go(tmp_path / str(at), **{**changes, "engine": {"nodes": nodes, "chunk": chunk}})
        for at, (nodes, chunk) in enumerate(((1, 64), (3, 64), (5, 2)))
    ]
    results = [done.result for done in runs]
    assert {result["digest"] for result in results} == {results[0]["digest"]}
    assert all(result["metrics"] == results[0]["metrics"] for result in results)
    everyone = [done.recommend("7", 5) for done in runs]
    assert everyone[1:] == everyone[:-1]
    other = go(tmp_path / "seed", **{**changes, "seed": 1})
    assert other.result["digest"] != results[0]["digest"]


# Choices -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"loss": "bpr"}},
        {"train": {"negative_sampling": "popularity"}},
        {"train": {"reduction": "mean", "weight_decay": 0.1}},
        {"train": {"optimizers": rates(1.0, {"name": "sgd", "lr": 0.1})}},
        {"clients": {"by": "taste", "count": 4}},
        {"clients": {"by": "column", "column": "taste_group"}},
        {"strategy": {"name": "fedavg", "aggregation": {"average": "cohort"}}},
        {"data": {**DATA, "split": {"name": "ratio", "valid": 0.0, "test": 0.2}}},
        {
            "personalization": {**PLGC, "extra_rows": 2, "decorrelation": 0.01},
            "train": {"batch_size": 4},
        },
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_every_choice_runs_and_is_its_own(changes: dict[str, Any], tmp_path: Path) -> None:
    result = go(tmp_path / "run", **changes).result
    plain = go(tmp_path / "plain").result
    assert result["digest"] != plain["digest"]
    assert result["metrics"]["test"]["ndcg@5"] >= 0
    losses = [record.loss or 0.0 for record in read_log(tmp_path / "run" / "rounds.jsonl")]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["popularity", "random", "itemknn"])
def test_baselines_are_labelled_and_say_what_they_know(name: str, tmp_path: Path) -> None:
    done = go(tmp_path / "run", model={"name": name})
    assert done.result["centralised"] is True
    assert done.result["name"] == name
    assert done.result["digest"] is None
    assert done.result["metrics"]["test"]["ndcg@5"] > 0
    assert len(done.recommend("3", 4)) == 4


def test_a_run_by_the_published_protocol_is_labelled(tmp_path: Path) -> None:
    data = {**DATA, "items": 200, "spread": 0.1, "protocol": "legacy"}
    result = go(tmp_path / "run", data=data).result
    assert result["protocol"] == "legacy"
    assert result["ranking"] == "99 sampled candidates"
    clean = go(tmp_path / "clean", data={**data, "protocol": "clean"}).result
    assert clean["ranking"] == "full"
    assert result["metrics"]["test"]["hit_rate@5"] != clean["metrics"]["test"]["hit_rate@5"]
    with pytest.raises(ConfigError, match="baselines are measured on 'clean' only"):
        go(tmp_path / "baseline", data=data, model={"name": "popularity"})
    assert not (tmp_path / "baseline").exists()


def test_a_callback_sees_every_round(tmp_path: Path) -> None:
    seen: list[RoundRecord] = []
    experiment = load_experiment(merged(BASE, {"evaluate": {"every": 2}}))
    fedrec.run(experiment, out=tmp_path / "run", on_round=seen.append)
    assert [record.round for record in seen] == [1, 2, 3]
    assert [record.evaluation is not None for record in seen] == [False, True, True]
    assert seen == read_log(tmp_path / "run" / "rounds.jsonl")


def test_it_stops_when_validation_gets_no_better(tmp_path: Path) -> None:
    # Steps too small to move anything.
    train = {"optimizers": rates(1e-20, {"name": "sgd", "lr": 1e-20})}
    done = go(tmp_path / "run", train=train, rounds={"count": 50, "patience": 3})
    result = done.result
    assert result["status"] == "early_stop"
    assert (result["best_round"], result["rounds"]) == (1, 4)


# What is learned -----------------------------------------------------------------------------


def test_the_planted_ranking_is_recovered(tmp_path: Path) -> None:
    data = {
        "name": "synthetic",
        "users": 300,
        "items": 100,
        "taste_groups": 6,
        "rank": 4,
        "sharpness": 2.0,
        "interactions_per_user": 20.0,
    }
    learned = go(
        tmp_path / "mf",
        data=data,
        model={"name": "mf", "embedding_dim": 16, "init_std": 0.01},
        train={"optimizers": rates(1.0, {"lr": 0.05}), "weight_decay": 0.2},
        strategy={"name": "fedadam", "server_optimizer": {"lr": 0.05}},
        rounds={"count": 60},
        evaluate={"every": 10},
    )
    popular = go(tmp_path / "pop", data=data, model={"name": "popularity"})
    ours, theirs = (done.result["metrics"]["test"]["ndcg@5"] for done in (learned, popular))
    assert ours > 1.5 * theirs
    source = Synthetic.model_validate({k: v for k, v in data.items() if k != "name"})
    best = source.true_scores()
    agreement = []
    for user in range(0, 300, 10):
        recommended = [int(r.item) for r in learned.recommend(str(user), 10)]
        agreement.append(best[user, recommended].mean() > np.quantile(best[user], 0.7))
    assert np.mean(agreement) > 0.8


@pytest.mark.parametrize("model", ["BiasedMF", "SmallNet", "LoopMF", "Weighted", "ItemsAlone"])
@pytest.mark.parametrize("clients", [{"by": "user"}, {"by": "random", "count": 9}], ids=str)
def test_a_model_of_the_users_own_trains(
    model: str, clients: dict[str, Any], tmp_path: Path
) -> None:
    train = {"optimizers": rates(0.02)}
    done = go(tmp_path / "run", model=f"{OWN}:{model}", clients=clients, train=train)
    losses = [record.loss or 0.0 for record in read_log(done.folder / "rounds.jsonl")]
    assert losses[-1] < losses[0]
    assert done.result["model"] == f"{OWN}:{model}"
    assert len(done.recommend("0", 3)) == 3


def test_one_client_at_a_time_is_all_at_once(tmp_path: Path) -> None:
    model = {"embedding_dim": 8, "init_std": 0.1}
    flat, loop = (
        go(tmp_path / name.partition(":")[2], model={"name": name, **model})
        for name in ("fedrec.models.mf:MatrixFactorization", f"{OWN}:LoopMF")
    )
    from fedrec.runs.reader import RunFolder

    one, other = (RunFolder(done.folder).model()["item"] for done in (flat, loop))
    np.testing.assert_allclose(one, other, atol=1e-6)


# Recommendations -----------------------------------------------------------------------------


def test_recommendations_are_raw_ids_that_are_new_to_the_user(plgc: fedrec.RunResult) -> None:
    split = split_of(plgc.experiment.data, plgc.experiment.clients)
    for user in ("0", "17", "39"):
        row = int(np.flatnonzero(split.user_ids == user)[0])
        masked = {*split.train.row(row).tolist(), *split.valid.row(row).tolist()}
        recommended = plgc.recommend(user, 50)
        items = [each.item for each in recommended]
        assert set(items) == {str(split.item_ids[i]) for i in range(50) if i not in masked}
        scores = [each.score for each in recommended]
        assert scores == sorted(scores, reverse=True)
        assert [each.item for each in plgc.recommend(user, 3)] == items[:3]


def test_recommendations_hit_what_the_evaluation_says(plgc: fedrec.RunResult) -> None:
    """The list of the run folder is the list that was measured."""
    split = split_of(plgc.experiment.data, plgc.experiment.clients)
    hits = []
    for row in range(split.n_users):
        top = {each.item for each in plgc.recommend(str(split.user_ids[row]), 5)}
        hits.append(str(split.item_ids[split.test.row(row)[0]]) in top)
    assert np.mean(hits) == pytest.approx(plgc.result["metrics"]["test"]["hit_rate@5"])


def test_who_is_not_there_is_not_recommended_to(plgc: fedrec.RunResult) -> None:
    with pytest.raises(DataError, match="user 'nobody' is not in the data"):
        plgc.recommend("nobody")
    with pytest.raises(ConfigError, match=r"^k: .*50.*items"):
        plgc.recommend("0", 51)


# Refused at the door -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluate": {"metrics": ["ndcg@51"]}}, "ndcg@51 looks at 51 items, but the catalogue"),
        ({"rounds": {"cohort_size": 41}}, "cohort_size: 41 is more than the 40 clients"),
        ({"engine": {"nodes": 41}}, "engine.nodes: 41 nodes are more than the 40 clients"),
        (
            {"data": {**DATA, "protocol": "legacy"}},
            "data.protocol: legacy needs 99 items that a user",
        ),
        ({"clients": {"by": "random", "count": 41}}, "clients.count: expected at most 40"),
        ({"clients": {"by": "column", "column": "tast_group"}}, "did you mean 'taste_group'"),
    ],
    ids=str,
)
def test_what_cannot_be_run_leaves_nothing(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        go(tmp_path / "run", **changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


# Failures ------------------------------------------------------------------------------------


def fussy(user: int, how: str) -> dict[str, Any]:
    spec = Fussy().params(Catalogue.empty())["mark"]
    mark = float(initial_local(0, "mark", spec, np.array([user], np.int64))[0])
    return {"name": f"{OWN}:Fussy", "embedding_dim": 8, "init_std": 0.1, "target": mark, "how": how}


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", "RuntimeError: the model does not like this user"),
        ("nan", "model Fussy: score is not finite"),
    ],
)
def test_a_client_that_fails_is_named(how: str, said: str, nodes: int, tmp_path: Path) -> None:
    changes = {"model": fussy(23, how), "engine": {"nodes": nodes}}
    with pytest.raises(ClientFailure, match="client 23") as caught:
        go(tmp_path / "stopped", **changes)
    assert str(caught.value).startswith("round 1")
    assert said in str(caught.value)
    done = go(tmp_path / "allowed", **changes, rounds={"max_failures": 1})
    for record in read_log(done.folder / "rounds.jsonl"):
        assert record.clients == 39
        assert [failure.client for failure in record.failures] == ["23"]
        assert said in record.failures[0].reason
    assert json.loads((done.folder / "result.json").read_text())["status"] == "completed"
