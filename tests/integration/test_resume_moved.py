"""A run goes on from the same data under another name, and after a full disk."""

import gzip
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fedrec
from fedrec.data import Frame
from fedrec.errors import FedRecError
from fedrec.runs.log import RoundRecord, RunLog, read_log
from tests.integration.stopped_runs import SMALL, go, go_on, outcome


def table(path: Path, rows: int = 150) -> Path:
    """A CSV file of 15 users with 10 items each."""
    rng = np.random.default_rng(3)
    lines = ["user,item,time"]
    for user in range(rows // 10):
        items = rng.permutation(25)[:10].tolist()
        lines += [f"{user},{item},{time}" for time, item in enumerate(items)]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def own(path: Path) -> dict[str, Any]:
    return {"data": {"name": "csv", "path": str(path), "k_core": 1}, "rounds": {"count": 4}}


@pytest.mark.parametrize("name", ["other.csv", "other.csv.gz", "folder/ratings.csv"])
def test_the_content_of_the_data_counts_not_its_name(name: str, tmp_path: Path) -> None:
    data = table(tmp_path / "ratings.csv")
    expected = outcome(go(tmp_path / "complete", **merged_count(own(data), 6)).folder)
    folder = go(tmp_path / "run", **own(data)).folder
    content = data.read_bytes()
    data.unlink()
    other = tmp_path / name
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    go_on(folder, f"data.path={other}", "rounds.count=6")
    assert outcome(folder) == expected


def test_a_run_goes_on_without_the_data_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = table(tmp_path / "ratings.csv")
    frame = Frame.of(pd.read_csv(path))
    for number, data in enumerate((own(path)["data"], frame)):
        out, changes = tmp_path / f"run{number}", {"data": data, "rounds": {"count": 4}}
        expected = outcome(go(tmp_path / f"{number}", **merged_count(changes, 6)).folder)
        folder = go(out, **changes).folder
        path.unlink(missing_ok=True)
        with monkeypatch.context() as patch:
            patch.setenv("FEDREC_CACHE", str(tmp_path / "empty"))
            go_on(folder, "rounds.count=6")
        assert outcome(folder) == expected
        (folder / "split.safetensors").unlink()
        with pytest.raises(FedRecError, match=r"split.safetensors: is missing"):
            go_on(folder, "rounds.count=7")


def test_other_content_is_refused(tmp_path: Path) -> None:
    data = table(tmp_path / "ratings.csv")
    folder = go(tmp_path / "run", **own(data)).folder
    for rows, name in ((140, "other.csv"), (140, "ratings.csv")):
        other = table(tmp_path / name, rows)
        with pytest.raises(FedRecError, match=r"the data is not what it was") as caught:
            go_on(folder, f"data.path={other}", "rounds.count=6")
        assert "\n" not in str(caught.value)


def merged_count(changes: dict[str, Any], count: int) -> dict[str, Any]:
    return {**changes, "rounds": {"count": count}}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 KB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(path)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small disk here")
    yield path
    # Lazily: the state is mapped as long as its arrays live.
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


def test_a_run_log_on_a_full_disk_keeps_its_complete_lines(disk: Path) -> None:
    log = RunLog(disk / "rounds.jsonl")
    log.append(RoundRecord(round=1, clients=1))
    fill(disk)
    long = {"round": 2, "clients": 1, "text": "x" * 1000}
    with pytest.raises(FedRecError, match=r"^disk full: .*rounds\.jsonl cannot be written; free"):
        for _ in range(100):
            log.append(RoundRecord.model_validate(long))
    log.close()
    complete = read_log(disk / "rounds.jsonl")
    assert complete[0].round == 1


@pytest.mark.parametrize("engine", ["serial", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_run_goes_on_after_a_full_disk(engine: str, disk: Path, tmp_path: Path) -> None:
    engines = {"name": engine, "nodes": 2, "workers": 1}

    def watch(record: RoundRecord) -> None:
        if record.round == 2:
            fill(disk)

    expected = outcome(go(tmp_path / "complete").folder)
    changed = {**SMALL, "engine": engines}
    with pytest.raises(FedRecError, match=r"disk full: .* cannot be written; free") as caught:
        fedrec.run(changed, out=disk / "run", on_round=watch)
    assert "\n" not in str(caught.value)
    (disk / "filler").unlink()
    go_on(disk / "run")
    assert outcome(disk / "run") == expected
