"""Devices with their own users' files train what one place trains on the data of all."""

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flwr.app import Message

import fedrec
from fedrec.config.experiment import Experiment, load_experiment
from fedrec.errors import ConfigError, EngineError, FedRecError, RunFolderError
from fedrec.flower.grid import SerialGrid
from fedrec.runs.device_run import DeviceRun
from fedrec.runs.recommend import best_items, recommendations
from tests.device_fleet import Devices, make_devices, prepare, serve

SECTIONS: dict[str, Any] = {
    "data": {"name": "synthetic", "users": 24, "items": 40},
    "model": {"name": "mf", "embedding_dim": 8},
    "train": {"backend": "torch"},
    "personalization": {"name": "plgc"},
    "strategy": "fedadam",
    "rounds": {"count": 4, "cohort_size": 15},
    "evaluate": {"every": 2, "metrics": ["ndcg@5", "hit_rate@5", "coverage@5", "gini@5"]},
    "engine": {"name": "serial"},
}
OWNERS = {0: range(5), 1: [5], 2: range(6, 16), 3: range(16, 24)}


def experiment_of(**sections: Any) -> Experiment:
    return load_experiment({**SECTIONS, **sections})


@pytest.mark.parametrize("model", ["mf", "pfedrec"])
def test_devices_give_the_digest_and_the_scores_of_one_place(tmp_path: Path, model: str) -> None:
    experiment = experiment_of(model={"name": model, "embedding_dim": 8})
    together = fedrec.run(experiment, out=tmp_path / "serial")
    folders = make_devices(experiment, experiment.data.load(), OWNERS, tmp_path / "devices")
    serve(experiment, folders, tmp_path / "served")
    served = fedrec.load(tmp_path / "served")
    assert served.result["digest"] == together.result["digest"]
    assert served.result["best_round"] == together.result["best_round"]
    ours, theirs = served.per_user(), together.per_user()
    scores = [c for c in theirs.columns if c.startswith(("valid", "test"))]
    pd.testing.assert_frame_equal(ours[scores], theirs[scores])
    assert ours["client"].tolist() == theirs["client"].tolist()
    assert "n_train" not in ours.columns


def test_what_is_absent_is_said_and_not_sent(tmp_path: Path) -> None:
    experiment = experiment_of()
    folders = make_devices(experiment, experiment.data.load(), OWNERS, tmp_path / "devices")
    serve(experiment, folders, tmp_path / "served")
    result = fedrec.load(tmp_path / "served").result
    assert set(result["metrics"]["test"]) == {"ndcg@5", "hit_rate@5"}
    assert any("coverage@5, gini@5 are absent" in line for line in result["warnings"])
    assert any("popularity are absent" in line for line in result["warnings"])
    assert "popularity" not in result["reference"]


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"personalization": "none", "strategy": {"name": "clustered", "clusters": 2, "warmup": 1}},
        {"personalization": "finetune"},
    ],
    ids=["plgc", "clustered", "finetune"],
)
def test_a_device_recommends_by_itself_what_one_place_would(
    tmp_path: Path, sections: dict[str, Any]
) -> None:
    experiment = experiment_of(**sections)
    together = fedrec.run(experiment, out=tmp_path / "serial")
    folders = make_devices(experiment, experiment.data.load(), OWNERS, tmp_path / "devices")
    serve(experiment, folders, tmp_path / "served")
    everywhere = together.split
    for folder, users in zip(folders, OWNERS.values(), strict=True):
        device = DeviceRun(folder)
        for user in users:
            at = np.array([user])
            ranked = best_items(everywhere, together._scorer, at, 5, all_known=True)
            theirs = recommendations(everywhere, ranked)
            ours = device.recommend(str(everywhere.user_ids[user]), 5)
            assert [each.item for each in ours] == [each.item for each in theirs]
            scores = [each.score for each in theirs]
            assert [each.score for each in ours] == pytest.approx(scores, abs=1e-6)


def test_a_device_keeps_what_the_best_round_left(tmp_path: Path) -> None:
    experiment = experiment_of()
    folders = make_devices(experiment, experiment.data.load(), OWNERS, tmp_path / "devices")
    serve(experiment, folders, tmp_path / "served")
    best = fedrec.load(tmp_path / "served").result["best_round"]
    kept = {path.name for path in folders[0].glob("runs/*/local/*")}
    assert kept == {f"node-000@{best}.safetensors", f"received@{best}.safetensors"}


def test_a_device_without_a_model_says_so(tmp_path: Path) -> None:
    experiment = experiment_of()
    [folder, *_] = make_devices(experiment, experiment.data.load(), OWNERS, tmp_path / "devices")
    with pytest.raises(RunFolderError, match="no run has left a model yet"):
        DeviceRun(folder)


def test_a_run_that_was_stopped_goes_on_with_the_same_digest(tmp_path: Path) -> None:
    experiment = experiment_of()
    data = experiment.data.load()
    folders = make_devices(experiment, data, OWNERS, tmp_path / "devices")
    serve(experiment, folders, tmp_path / "whole")
    digest = fedrec.load(tmp_path / "whole").result["digest"]

    again = make_devices(experiment, data, OWNERS, tmp_path / "others")
    shorter = experiment_of(rounds={"count": 2, "cohort_size": 15})
    serve(shorter, again, tmp_path / "stopped")
    config = tmp_path / "stopped" / "config.yaml"
    config.write_text(config.read_text().replace("count: 2", "count: 4"))
    with (again[1] / "log.csv").open("a") as file:  # an app goes on writing
        file.write("5,1,1,999\n")
    serve(experiment, again, tmp_path / "stopped")
    assert fedrec.load(tmp_path / "stopped").result["digest"] == digest


def test_a_device_with_other_items_is_refused(tmp_path: Path) -> None:
    experiment = experiment_of()
    data = experiment.data.load()
    folders = make_devices(experiment, data, OWNERS, tmp_path / "devices")
    fewer = experiment_of(data={**SECTIONS["data"], "items": 39})
    other = make_devices(fewer, fewer.data.load(), {0: range(5)}, tmp_path / "others")
    with pytest.raises(EngineError, match="device device-0 has another catalogue"):
        serve(experiment, [*folders[1:], other[0]], tmp_path / "served")


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"evaluate": {"metrics": ["ndcg@5"], "slices": ["tail"]}}, "evaluate.slices"),
        ({"train": {"backend": "torch", "negative_sampling": "popularity"}}, "negative_sampling"),
        ({"train": {"backend": "auto"}}, "train.backend: auto means numba"),
        ({"data": {**SECTIONS["data"], "k_core": 2}}, "k_core"),
        ({"model": "popularity"}, "baseline"),
    ],
)
def test_experiments_that_need_the_data_of_others_are_refused(
    tmp_path: Path, sections: dict[str, Any], named: str
) -> None:
    plain, experiment = experiment_of(), experiment_of(**sections)
    folders = make_devices(plain, plain.data.load(), OWNERS, tmp_path / "devices")
    with pytest.raises(FedRecError, match=named):
        prepare(experiment, folders, tmp_path / "served")
    assert not (tmp_path / "served").exists()


def test_what_goes_wrong_on_a_device_tells_the_server_of_no_user(tmp_path: Path) -> None:
    experiment = experiment_of()
    folders = make_devices(experiment, experiment.data.load(), OWNERS, tmp_path / "devices")
    (folders[1] / "log.csv").write_text("user,item,rating,time\n5,secret,1,1\n")
    with pytest.raises(EngineError) as failed:
        serve(experiment, folders, tmp_path / "served")
    assert "its own log says why" in str(failed.value)
    assert "secret" not in str(failed.value)


def test_no_message_of_a_device_names_its_users_or_says_when(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = experiment_of()
    data = experiment.data.load()
    names = np.array([f"user-called-{n:02d}" for n in range(len(data.user_ids))], object)
    data = replace(data, user_ids=names, timestamps=123456.7 + np.arange(len(data)))
    folders = make_devices(experiment, data, OWNERS, tmp_path / "devices")
    said: list[bytes] = []

    def listen(devices: Devices, messages: Iterable[Message]) -> list[Message]:
        replies = SerialGrid.send_and_receive(devices, messages)
        for reply in replies:
            for record in reply.content.array_records.values():
                said.extend(array.data for array in record.values())
            said.append(repr(reply.content).encode())
        return replies

    monkeypatch.setattr(Devices, "send_and_receive", listen)
    serve(experiment, folders, tmp_path / "served")
    sent = b"".join(said)
    assert len(sent) > 1000
    times = [np.array([123456.7 + n]).tobytes() for n in range(len(data))]
    secrets = [*(name.encode() for name in names), *times, b"called", b"log.csv", b"123456.7"]
    assert [secret for secret in secrets if secret in sent] == []


def test_a_device_that_lost_its_state_is_named(tmp_path: Path) -> None:
    experiment = experiment_of(rounds={"count": 2})
    folders = make_devices(experiment, experiment.data.load(), OWNERS, tmp_path / "devices")
    out = tmp_path / "served"
    serve(experiment, folders, out)
    config = out / "config.yaml"
    config.write_text(config.read_text().replace("count: 2", "count: 3"))
    shutil.rmtree(folders[2] / "runs")
    with pytest.raises(FedRecError, match=r"device-2.* lost its private state"):
        serve(experiment, folders, out)


def test_a_device_does_not_send_its_lists_even_if_it_is_asked(tmp_path: Path) -> None:
    experiment = experiment_of(evaluate={"metrics": ["ndcg@5"]})
    folders = make_devices(experiment, experiment.data.load(), OWNERS, tmp_path / "devices")
    out = tmp_path / "served"
    prepare(experiment, folders, out)
    config = out / "config.yaml"
    config.write_text(config.read_text().replace("- ndcg@5", "- ndcg@5\n  - coverage@5"))
    with pytest.raises(ConfigError, match="coverage@5 needs the lists of all users"):
        serve(experiment, folders, out)
