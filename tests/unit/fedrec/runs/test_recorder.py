"""What a run leaves behind."""

import json
import math
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.config.experiment import Experiment
from fedrec.data.prepare import split_of
from fedrec.evaluation.evaluate import Evaluation
from fedrec.runs import recorder as recorders
from fedrec.runs.log import Bytes, RoundRecord, Seconds, read_log
from fedrec.runs.open_run import OpenRun
from fedrec.runs.reader import RunFolder
from fedrec.runs.recorder import Recorder, digest
from fedrec.runs.run import run
from fedrec.types import Params, Split

EXPERIMENT = Experiment.model_validate(
    {
        "data": {"name": "synthetic", "users": 12, "items": 20, "taste_groups": 2},
        "clients": {"by": "random", "count": 5},
        "personalization": {"name": "plgc"},
        "evaluate": {"metrics": ["ndcg@5", "mrr", "coverage@5"]},
    }
)


ENGINE = {"name": "serial", "nodes": 1}


@pytest.fixture(scope="module")
def split() -> Split:
    return split_of(EXPERIMENT.data, EXPERIMENT.clients)


def opened(out: Path, split: Split) -> OpenRun:
    return OpenRun(out, EXPERIMENT, out, split)


def params(value: float) -> Params:
    return {"item": np.full((20, 2), value, np.float32), "constant": np.array(value, np.float32)}


def evaluation(score: float) -> Evaluation:
    values = np.full((12, 2), score)
    parts = {"valid": values, "test": values / 2}
    views = {"mixed": parts, "local": {part: v / 10 for part, v in parts.items()}}
    return Evaluation(np.arange(12), views, {5: np.ones(20, np.int64)})  # type: ignore[arg-type]


def record(recorder: Recorder, round: int, score: float | None) -> bool:
    line = RoundRecord(
        round=round,
        clients=5,
        seconds=Seconds(train=0.5, evaluate=0.25),
        bytes=Bytes(up=10, down=100),
    )
    return recorder.record(line, None if score is None else evaluation(score), params(float(round)))


@pytest.mark.parametrize("at", ["write_arrays", "write_bytes"])
def test_an_interrupt_leaves_the_model_of_the_best_round_that_the_log_names(
    at: str, tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C right after the line of the log, and between the model and the values per user."""
    write = getattr(recorders, at)

    def interrupted(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        write(*arguments)

    recorder = Recorder(opened(tmp_path, split), ENGINE)
    record(recorder, 1, 0.1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(recorders, at, interrupted)
        record(recorder, 2, 0.2)
    recorder.finish("interrupted", params(2.0))
    folder = RunFolder(tmp_path)
    assert folder.result["best_round"] == 2
    np.testing.assert_array_equal(folder.model()["item"], params(2.0)["item"])
    assert folder.per_user()["valid.ndcg@5"].eq(0.2).all()


def record_run(out: Path, split: Split, scores: list[float | None], **more: Any) -> dict[str, Any]:
    recorder = Recorder(opened(out, split), ENGINE, **more)
    for round, score in enumerate(scores, 1):
        record(recorder, round, score)
    return recorder.finish("completed", params(float(len(scores))))


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.1, 0.3, 0.2], 2),
        ([None, 0.2, None, 0.3], 4),
        ([0.3, 0.3], 1),
        ([math.nan, math.nan], 2),
    ],
)
def test_validation_chooses_the_round(
    scores: list[float | None], best: int, tmp_path: Path, split: Split
) -> None:
    outcome = record_run(tmp_path, split, scores)
    assert outcome["best_round"] == best
    folder = RunFolder(tmp_path)
    assert folder.model()["item"][0, 0] == best
    assert outcome["digest"] == digest(params(float(len(scores))))
    score = scores[best - 1]
    assert score is not None
    values = folder.per_user()["valid.ndcg@5"].to_numpy()
    np.testing.assert_array_equal(values, np.full(12, score))
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["metrics"]["valid"]["ndcg@5"] == (None if math.isnan(score) else score)


def test_the_result_has_all_its_keys(tmp_path: Path, split: Split) -> None:
    outcome = record_run(tmp_path, split, [0.1, 0.3])
    assert outcome["metrics"]["valid"] == {"ndcg@5": 0.3, "mrr": 0.3}
    assert outcome["metrics"]["test"] == {"ndcg@5": 0.15, "mrr": 0.15, "coverage@5": 1.0}
    assert outcome["metrics"]["views"] == {"local": {"ndcg@5": 0.015, "mrr": 0.015}}
    assert outcome["seconds"]["train"] == 1.0
    assert outcome["seconds"]["evaluate"] == 0.5
    assert outcome["seconds"]["total"] >= 0
    assert outcome["clients_per_second"] == 10.0
    assert outcome["bytes"] == {"up": 20, "down": 200}
    assert outcome["bytes_per_client"] == {"up": 2.0, "down": 20.0}
    assert outcome["protocol"] == "clean"
    assert outcome["ranking"] == "full"
    assert (outcome["clients"], outcome["users"], outcome["items"]) == (5, 12, 20)
    assert outcome["name"] == "plgc + mf + fedadam"
    assert {"plgc2025", "koren2009matrix", "reddi2021adaptive"} <= set(outcome["citations"])
    assert {"fedrec", "torch", "numpy"} <= set(outcome["versions"])
    assert RunFolder(tmp_path).result == outcome


def test_every_user_is_told_with_its_raw_id_and_client(tmp_path: Path, split: Split) -> None:
    record_run(tmp_path, split, [0.2])
    table = RunFolder(tmp_path).per_user()
    assert table["user"].tolist() == split.user_ids.tolist()
    assert table["n_train"].tolist() == split.train.lengths.tolist()
    for client in range(split.n_clients):
        users = split.user_ids[split.clients.row(client)].tolist()
        assert table["user"][table["client"] == client].tolist() == users
    assert {"valid.ndcg@5", "test.mrr", "test.local.mrr"} <= set(table.columns)
    assert not {"test.coverage@5"} & set(table.columns)


def test_the_observer_sees_what_is_written(tmp_path: Path, split: Split) -> None:
    seen: list[Mapping[str, Any]] = []
    record_run(tmp_path, split, [None, 0.2], observer=seen.append)
    assert [RoundRecord.model_validate(each) for each in seen] == list(
        read_log(tmp_path / "rounds.jsonl")
    )


def test_a_run_without_rounds_still_has_a_result(tmp_path: Path, split: Split) -> None:
    outcome = record_run(tmp_path, split, [])
    assert (outcome["best_round"], outcome["rounds"], outcome["clients_per_second"]) == (
        None,
        0,
        None,
    )


def test_a_number_is_kept_as_a_number(tmp_path: Path, split: Split) -> None:
    record_run(tmp_path, split, [0.2])
    assert RunFolder(tmp_path).model()["constant"].shape == ()


@given(st.integers(0, 3), st.integers(0, 99))
def test_a_digest_sees_every_bit_and_no_order(at: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one = {"a": rng.random((2, 2)).astype(np.float32), "b": np.ones(2, np.float32)}
    assert digest(one) == digest(dict(reversed(one.items())))
    other = {name: value.copy() for name, value in one.items()}
    other["a"].flat[at] = np.nextafter(other["a"].flat[at], np.float32(2))
    assert digest(other) != digest(one)
    assert digest({"a": one["a"].reshape(4), "b": one["b"]}) != digest(one)
    assert digest({"c": one["a"], "b": one["b"]}) != digest(one)
    assert digest({"a": one["a"].astype(np.float64), "b": one["b"]}) != digest(one)
    assert digest({"a": np.asfortranarray(one["a"]), "b": one["b"]}) == digest(one)


@pytest.mark.parametrize(
    ("times", "loss_factor", "stale"),
    [(1.04, 0.9, 0), (1.06, 0.9, 3), (1.04, 0.9999, 3), (1.04, 1.0, 3), (0.2, 0.9, 0)],
)
def test_patience_waits_near_popularity_while_the_loss_falls(
    times: float,
    loss_factor: float,
    stale: int,
    tmp_path: Path,
    split: Split,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = Recorder(opened(tmp_path, split), ENGINE)
    plateau = recorder.popularity["valid"]["ndcg@5"] * times
    for round in range(1, 5):
        line = RoundRecord(round=round, clients=5, loss=3.0 * loss_factor**round)
        recorder.record(line, evaluation(plateau), params(1.0))
    assert recorder.tally.stale == stale
    result = recorder.finish("completed", params(1.0))
    assert result["reference"]["popularity"] == recorder.popularity
    assert bool(result["warnings"]) is (times < 1.05)
    assert ("ranking by popularity has" in caplog.text) is (times < 1.05)
    assert result["best_round"] == 1


def test_popularity_is_what_the_baseline_measures(tmp_path: Path) -> None:
    document = {**EXPERIMENT.model_dump(mode="json"), "rounds": {"count": 1}}
    document["engine"], document["train"]["backend"] = {"name": "serial"}, "torch"
    trained = run(Experiment.model_validate(document), out=tmp_path / "mf")
    popular = run(
        Experiment.model_validate({**document, "model": {"name": "popularity"}}),
        out=tmp_path / "popularity",
    )
    for part, values in trained.result["reference"]["popularity"].items():
        for label, value in values.items():
            assert popular.result["metrics"][part][label] == value
