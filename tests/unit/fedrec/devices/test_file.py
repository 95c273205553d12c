"""Devices of a file are dealt evenly, and what is wrong in it is named in one line."""

import gzip
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.compute.context import RoundContext
from fedrec.devices import DeviceFile
from fedrec.devices.availability import DAY, TICKS
from fedrec.errors import DataError

HEAD = "seconds_per_example,download,upload"
WITH_TIMES = f"{HEAD},online_from,online_to,period"


def context(n: int, seed: int = 0) -> RoundContext:
    return RoundContext(seed, 0, n, 10)


def written(folder: Path, *lines: str) -> DeviceFile:
    path = folder / "devices.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return DeviceFile(path=path)


@settings(max_examples=30)
@given(rows=st.integers(1, 12), n=st.integers(1, 30), seed=st.integers(0, 2**40))
def test_devices_are_dealt_as_from_packs_of_cards(
    tmp_path_factory: pytest.TempPathFactory, rows: int, n: int, seed: int
) -> None:
    lines = (f"{row + 1},{100 + row},{200 + row}" for row in range(rows))
    devices = written(tmp_path_factory.mktemp("devices"), HEAD, *lines)
    fleet = devices.checked_fleet(context(n, seed))
    counts = Counter((fleet.seconds_per_example - 1).tolist())
    assert max(counts.values()) <= -(-n // rows)
    assert np.array_equal(fleet.download, fleet.seconds_per_example + 99)
    assert np.array_equal(fleet.upload, fleet.seconds_per_example + 199)
    assert fleet.hash == devices.checked_fleet(context(n, seed)).hash


def test_the_seed_decides_who_has_which(tmp_path: Path) -> None:
    devices = written(tmp_path, HEAD, *(f"{row + 1},1,1" for row in range(20)))
    fleets = [devices.checked_fleet(context(20, seed)) for seed in (0, 1)]
    assert (fleets[0].seconds_per_example != fleets[1].seconds_per_example).any()


@pytest.mark.parametrize("form", ["csv", "gzip", "lists", "texts"])
def test_every_form_says_the_same(tmp_path: Path, form: str) -> None:
    lists: dict[str, list[list[float]]] = {
        "online_from": [[0, 50.5], [3600]],
        "online_to": [[10, 100], [7200]],
    }
    columns: dict[str, list[Any]] = {
        "seconds_per_example": [0.5, 0.25],
        "download": [1000, 2000],
        "upload": [10.5, 20.25],
        "period": [100, 86400],
        **lists,
    }
    texts = {name: [" ".join(map(str, row)) for row in rows] for name, rows in lists.items()}
    texts = columns | texts
    path = tmp_path / "devices"
    text = pd.DataFrame(texts).to_csv(index=False).encode()
    if form in ("csv", "gzip"):
        path.write_bytes(gzip.compress(text) if form == "gzip" else text)
    else:
        pd.DataFrame(columns if form == "lists" else texts).to_parquet(path)
    for seed in range(20):
        fleet = DeviceFile(path=path).checked_fleet(context(1, seed))
        first = fleet.seconds_per_example[0] == 0.5
        assert fleet.upload[0] == (10.5 if first else 20.25)
        starts, ends = ([0, 50.5], [10, 100]) if first else ([3600], [7200])
        assert np.array_equal(fleet.availability.starts, np.array(starts) * TICKS)
        assert np.array_equal(fleet.availability.ends, np.array(ends) * TICKS)
        assert fleet.availability.periods[0] == (100 if first else DAY) * TICKS


def test_times_are_of_a_day_unless_said_and_always_without_them(tmp_path: Path) -> None:
    fleet = written(tmp_path, f"{HEAD},online_from,online_to", "1,1,1,0,5").checked_fleet(
        context(1)
    )
    assert fleet.availability.periods.tolist() == [DAY * TICKS]
    always = written(tmp_path, HEAD, "1,1,1").checked_fleet(context(1))
    assert (always.availability.ends == always.availability.periods).all()


def test_columns_that_are_not_read_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fedrec"):
        written(tmp_path, f"model,{HEAD}", "phone,1,1,1").checked_fleet(context(1))
    assert "devices.csv: not read: model" in caplog.text


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([""], "the file is empty; expected a device in each row"),
        ([HEAD], "no devices; expected one in each row"),
        (
            ["seconds_per_example,download,uplaod", "1,1,1"],
            r"no column 'upload' \(did you mean 'up",
        ),
        ([f"{HEAD},upload", "1,1,1,1"], "two columns are named 'upload'; rename one"),
        ([HEAD, "1,1,1", "1,1"], "line 3: has 2 cells, expected 3, separated by commas"),
        (
            [HEAD, "1,1,1", "", "1,fast,1"],
            "line 4: column 'download': expected a finite number, got",
        ),
        ([HEAD, "1,1,", "1,1,"], r"line 2: column 'upload': is empty.* \(and 1 more\)"),
        ([HEAD, ",,"], "line 2: column 'seconds_per_example': is empty"),
        ([HEAD, "1,1,1", "-1,1,1"], "line 3: its seconds_per_example is -1, expected above 0"),
        ([HEAD, "1,0,1"], "line 2: its download is 0, expected 1 or more"),
        ([HEAD, '1,1,"1'], "is neither CSV in UTF-8 nor Parquet: unexpected end of data"),
        ([f"{HEAD},online_from", "1,1,1,0"], "no column 'online_to'"),
        ([f"{HEAD},period", "1,1,1,9"], "no column 'online_from'"),
        ([WITH_TIMES, "1,1,1,0 5,3,9"], "line 2: has 2 in online_from and 1 in online_to"),
        ([WITH_TIMES, "1,1,1,0 x,3 4,9"], "line 2: column 'online_from': expected a finite number"),
        ([WITH_TIMES, "1,1,1,0 2,3 4,9"], "line 2: its interval from 0 to 3 s is not over when"),
        ([WITH_TIMES, "1,1,1,0,10,9"], "line 2: its interval from 0 to 10 s ends after its period"),
        ([WITH_TIMES, "1,1,1,3,3,9"], "line 2: its interval from 3 to 3 s is empty"),
        ([WITH_TIMES, "1,1,1,,,9"], "line 2: it is never online; leave it out"),
        ([WITH_TIMES, "1,1,1,0,1,-9"], "line 2: its period is not above 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        written(tmp_path, *lines).checked_fleet(context(3))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_no_file_and_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no such file; set rounds\.devices\.path"):
        DeviceFile(path=tmp_path / "nothing").checked_fleet(context(1))
    path = tmp_path / "pickle"
    path.write_bytes(b"\x80\x04\x95\xff")
    with pytest.raises(DataError, match="is neither CSV in UTF-8 nor Parquet"):
        DeviceFile(path=path).checked_fleet(context(1))
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        DeviceFile(path=path).checked_fleet(context(1))


def test_parquet_names_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "devices.parquet"
    columns = {"seconds_per_example": [1.0, None], "download": [1, 2], "upload": [1, 2]}
    pd.DataFrame(columns).to_parquet(path)
    with pytest.raises(DataError, match="row 2: column 'seconds_per_example': expected a finite"):
        DeviceFile(path=path).checked_fleet(context(1))
