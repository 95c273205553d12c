"""What is appended comes back, whatever a kill leaves behind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import NumericError, RunFolderError
from fedrec.runs.log import RoundRecord, RunLog, read_log, rounds_before

finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(alphabet='aZ "\\\n\u2028é', min_size=1, max_size=8)
records = st.fixed_dictionaries(
    {
        "round": st.integers(0, 10**6),
        "clients": st.integers(0, 10**6),
        "failures": st.lists(st.fixed_dictionaries({"client": names, "reason": names}), max_size=3),
        "loss": st.none() | finite,
        "seconds": st.fixed_dictionaries(
            {"train": st.floats(0, 1e6), "evaluate": st.just(0.5), "idle": st.just(0.25)}
        ),
        "bytes": st.fixed_dictionaries({"up": st.integers(0, 2**60), "down": st.just(1)}),
        "simulation": st.fixed_dictionaries({"up": st.integers(0, 2**60), "down": st.just(1)}),
        "evaluation": st.none()
        | st.just({"mixed": {"valid": {"ndcg@10": 0.1}, "test": {"ndcg@10": None}}}),
    }
)


def save(path: Path, content: list[dict[str, Any]]) -> None:
    with RunLog(path) as log:
        for record in content:
            log.append(record)


@settings(deadline=None)
@given(content=st.lists(records, max_size=5))
def test_what_is_appended_comes_back(
    content: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "rounds.jsonl"
    save(path, content)
    assert list(read_log(path).records) == content


@settings(deadline=None)
@given(record=records)
def test_a_record_survives_its_json(record: dict[str, Any]) -> None:
    parsed = RoundRecord.from_json(json.dumps(record))
    assert RoundRecord.from_json(parsed.to_json()) == parsed
    assert json.loads(parsed.to_json()) == record


@settings(deadline=None)
@given(content=st.lists(records, min_size=1, max_size=3), data=st.data())
def test_any_cut_loses_at_most_the_last_line(
    content: list[dict[str, Any]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "rounds.jsonl"
    save(path, content)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    log = read_log(path)
    lines = whole[:cut].count(b"\n")
    assert list(log.records[:lines]) == content[:lines]
    assert len(log.records) - lines in (0, 1)
    assert list(log.records) == content[: len(log.records)]
    torn = cut > 0 and whole[:cut].rpartition(b"\n")[2] != b"" and len(log.records) == lines
    assert log.torn_line == (lines + 1 if torn else None)
    save(path, [{"round": 99, "clients": 0}])
    assert list(read_log(path).records) == [*log.records, {"round": 99, "clients": 0}]


@pytest.mark.parametrize("line", ["{", "[1]", "", "nul"])
def test_damage_before_the_last_line_is_an_error(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rounds.jsonl"
    path.write_text(f'{{"round": 1}}\n{line}\n{{"round": 3}}\n', encoding="utf-8")
    with pytest.raises(RunFolderError, match="line 2 is damaged"):
        read_log(path)


def test_each_line_is_on_disk_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    log = RunLog(path)
    for round in range(1, 4):
        log.append({"round": round})
        assert [r["round"] for r in list(read_log(path).records)] == list(range(1, round + 1))
    log.close()


def test_numpy_scalars_become_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    save(path, [{"round": np.int64(3), "loss": np.float32(0.5)}])
    assert list(read_log(path).records) == [{"round": 3, "loss": 0.5}]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_a_value_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    path = tmp_path / "rounds.jsonl"
    with RunLog(path) as log:
        with pytest.raises(NumericError, match="round 7"):
            log.append({"round": 7, "loss": value})
        log.append({"round": 8})
    assert list(read_log(path).records) == [{"round": 8}]


def test_a_wrong_record_names_its_field() -> None:
    with pytest.raises(RunFolderError, match="clients"):
        RoundRecord.from_json('{"round": 1, "clients": -1}')


def test_unknown_keys_are_kept() -> None:
    line = '{"round":1,"clients":2,"epsilon":0.5}'
    assert json.loads(RoundRecord.from_json(line).to_json())["epsilon"] == 0.5


def test_scores_are_found_or_none() -> None:
    record = RoundRecord(
        round=1, clients=2, evaluation={"mixed": {"valid": {"mrr": 0.5}}, "global": {}}
    )
    assert record.score("valid", "mrr") == 0.5
    assert record.score("test", "mrr") is None
    assert record.score("valid", "mrr", "local") is None
    assert RoundRecord(round=1, clients=2).score("valid", "mrr") is None


def test_no_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_log(tmp_path / "rounds.jsonl")
    with pytest.raises(RunFolderError, match="choose another --out"):
        RunLog(tmp_path / "missing" / "rounds.jsonl")


@settings(deadline=None)
@given(
    content=st.lists(records, min_size=1, max_size=5),
    rest=st.binary(max_size=20),
    data=st.data(),
)
def test_the_rounds_before_a_round_are_those_that_were_written(
    content: list[dict[str, Any]],
    rest: bytes,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("log") / "rounds.jsonl"
    content = [{**record, "round": number} for number, record in enumerate(content, start=1)]
    hashes = []
    with RunLog(path) as log:
        for record in content:
            hashes.append(log.sha256)
            log.append(record)
        hashes.append(log.sha256)
    with path.open("ab") as file:
        file.write(rest)
    round = data.draw(st.integers(1, len(content) + 1))
    before, size = rounds_before(path, round, hashes[round - 1])
    assert [r.model_dump(mode="json") for r in before] == content[: round - 1]
    with RunLog(path) as log:  # another process that appends
        assert log.sha256 != "" and path.stat().st_size >= size
    os.truncate(path, size)
    assert list(read_log(path).records) == content[: round - 1]
    if size:
        damaged = bytearray(path.read_bytes())
        damaged[data.draw(st.integers(0, size - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(damaged)
        with pytest.raises(RunFolderError, match=r"rounds\.jsonl: "):
            rounds_before(path, round, hashes[round - 1])


def test_one_process_writes_a_log_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    with RunLog(path) as log, pytest.raises(RunFolderError, match="written by another process"):
        log.append({"round": 1})
        RunLog(path)
    with RunLog(path) as log:
        log.append({"round": 2})
    assert len(list(read_log(path).records)) == 2
