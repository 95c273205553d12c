"""What is appended comes back, whatever a kill leaves behind."""

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedrec.errors import RunFolderError
from fedrec.runs.log import RoundRecord, RunLog, read_log, rounds_before
from fedrec.runs.reader import RunFolder

finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(alphabet='aZ "\\\n\u2028é', min_size=1, max_size=8)
records = st.fixed_dictionaries(
    {
        "round": st.integers(0, 10**6),
        "clients": st.integers(0, 10**6),
        "failures": st.lists(st.fixed_dictionaries({"client": names, "reason": names}), max_size=3),
        "lost": st.lists(st.fixed_dictionaries({"client": names, "reason": names}), max_size=2),
        "missing_users": st.integers(0, 9),
        "loss": st.none() | finite,
        "seconds": st.fixed_dictionaries(
            {"train": st.floats(0, 1e6), "evaluate": st.just(0.5), "idle": st.just(0.25)}
        ),
        "bytes": st.fixed_dictionaries({"up": st.integers(0, 2**60), "down": st.just(1)}),
        "simulation": st.fixed_dictionaries({"up": st.integers(0, 2**60), "down": st.just(1)}),
        "virtual": st.none()
        | st.fixed_dictionaries(
            {
                "seconds": st.floats(0, 1e9),
                "stragglers": st.integers(0, 9),
                "discarded": st.just(1),
                "under_way": st.just(2),
                "staleness": st.floats(0, 1e3),
                "most_stale": st.just(3),
            }
        ),
        "evaluation": st.none()
        | st.just({"mixed": {"valid": {"ndcg@10": 0.1}, "test": {"ndcg@10": None}}}),
    }
)


def save(path: Path, content: list[dict[str, Any]]) -> None:
    with closing(RunLog(path)) as log:
        for record in content:
            log.append(RoundRecord.model_validate(record))


def stored(path: Path) -> list[dict[str, Any]]:
    return [record.model_dump(mode="json") for record in read_log(path)]


@settings(deadline=None)
@given(content=st.lists(records, max_size=5))
def test_what_is_appended_comes_back(
    content: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "rounds.jsonl"
    save(path, content)
    assert stored(path) == content


@settings(deadline=None)
@given(record=records)
def test_a_record_survives_its_json(record: dict[str, Any]) -> None:
    parsed = RoundRecord.model_validate(record)
    assert RoundRecord.model_validate_json(parsed.model_dump_json()) == parsed
    assert json.loads(parsed.model_dump_json()) == record


@settings(deadline=None)
@given(content=st.lists(records, min_size=1, max_size=3), data=st.data())
def test_any_cut_loses_at_most_the_last_line(
    content: list[dict[str, Any]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "rounds.jsonl"
    save(path, content)
    complete = path.read_bytes()
    cut = data.draw(st.integers(0, len(complete)))
    path.write_bytes(complete[:cut])
    log = read_log(path)
    lines = complete[:cut].count(b"\n")
    assert len(log) - lines in (0, 1)
    assert stored(path) == content[: len(log)]
    torn = cut > 0 and complete[:cut].rpartition(b"\n")[2] != b"" and len(log) == lines
    assert RunFolder(path.parent).torn() == torn


RECORD = '{"round": 1, "clients": 1}'


@pytest.mark.parametrize("line", ["{", "[1]", "", "nul", '{"round": 1}'])
def test_damage_before_the_last_line_is_an_error(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rounds.jsonl"
    path.write_text(f"{RECORD}\n{line}\n{RECORD}\n", encoding="utf-8")
    with pytest.raises(RunFolderError, match="line 2 is not the record of a round"):
        read_log(path)


def test_each_line_is_on_disk_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    log = RunLog(path)
    for round in range(1, 4):
        log.append(RoundRecord(round=round, clients=1))
        assert [r.round for r in read_log(path)] == list(range(1, round + 1))
    log.close()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValidationError, match="loss"):
        RoundRecord(round=7, clients=1, loss=value)


def test_numpy_scalars_are_numbers_and_unknown_keys_are_kept() -> None:
    values = {"round": np.int64(1), "clients": 2, "loss": np.float32(0.5), "epsilon": 0.25}
    stored = json.loads(RoundRecord.model_validate(values).model_dump_json())
    assert {key: stored[key] for key in values} == values


def test_scores_are_found_or_none() -> None:
    record = RoundRecord(
        round=1, clients=2, evaluation={"mixed": {"valid": {"mrr": 0.5}}, "global": {}}
    )
    assert record.score("valid", "mrr") == 0.5
    assert record.score("test", "mrr") is None
    assert record.score("valid", "mrr", "local") is None
    assert RoundRecord(round=1, clients=2).score("valid", "mrr") is None


def test_no_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is missing"):
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
    with closing(RunLog(path)) as log:
        for record in content:
            hashes.append(log.sha256)
            log.append(RoundRecord.model_validate(record))
        hashes.append(log.sha256)
    with path.open("ab") as file:
        file.write(rest)
    round = data.draw(st.integers(1, len(content) + 1))
    before, size = rounds_before(path, round, hashes[round - 1])
    assert [r.model_dump(mode="json") for r in before] == content[: round - 1]
    os.truncate(path, size)
    assert stored(path) == content[: round - 1]
    if size:
        damaged = bytearray(path.read_bytes())
        damaged[data.draw(st.integers(0, size - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(damaged)
        with pytest.raises(RunFolderError, match=r"rounds\.jsonl: "):
            rounds_before(path, round, hashes[round - 1])


def test_one_process_writes_a_log_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    with (
        closing(RunLog(path)) as log,
        pytest.raises(RunFolderError, match="written by another process"),
    ):
        log.append(RoundRecord(round=1, clients=1))
        RunLog(path)
    with closing(RunLog(path)) as log:
        log.append(RoundRecord(round=2, clients=1))
    assert len(read_log(path)) == 2
