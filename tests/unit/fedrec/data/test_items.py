"""Columns of items from a file of their own reach the split by raw id, whatever its form."""

import gzip
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.config.experiment import load_experiment
from fedrec.data import Csv, Frame, Lists
from fedrec.data.clients import Clients
from fedrec.data.prepare import open_split, prepare, split_of
from fedrec.errors import ConfigError, DataError

LISTS = "ann 7 007 9\nbob 9 7 12\ncyd 12 9 7\n"
FILMS = [("7", "Seven, or: the 7", "a|b"), ("9", 'Nine "9"', ""), ("12", "Zwölf", "b")]
TITLES = {"7": "Seven, or: the 7", "9": 'Nine "9"', "12": "Zwölf", "007": ""}
TSV = "\n".join(["movie\ttitle\tgenres", *("\t".join(film) for film in FILMS)])


def with_items(folder: Path, items: Any, content: str | bytes = "", name: str = "items") -> Lists:
    (folder / "log").write_text(LISTS, encoding="utf-8")
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    table = path if items is None else {"path": path, **items}
    return Lists.model_validate({"path": folder / "log", "items": table})


def titles(data: Lists) -> dict[str, str]:
    loaded = data.load()
    return dict(zip(loaded.item_ids, loaded.item_columns["title"], strict=True))


@pytest.mark.parametrize(
    ("content", "items"),
    [
        (TSV, None),
        (gzip.compress(TSV.encode(), mtime=0), None),
        (TSV.replace("movie\ttitle\tgenres", "item_id:token\ttitle:token_seq\tg:token"), None),
        (pd.DataFrame(FILMS, columns=["id", "title", "g"]).to_csv(index=False), None),
        (TSV.partition("\n")[2], {"names": ["id", "title", "g"], "separator": "\t"}),
        (TSV.replace("\t", "::"), {"separator": "::"}),
        (
            "\n".join("\t".join(line.split("\t")[::-1]) for line in TSV.split("\n")),
            {"id": "movie"},
        ),
    ],
)
def test_every_form_gives_the_same_titles(tmp_path: Path, content: str, items: Any) -> None:
    assert titles(with_items(tmp_path, items, content)) == TITLES


def test_parquet_joins_lists_and_reads_whole_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame(FILMS, columns=["id", "title", "genres"])
    frame["genres"] = frame["genres"].str.split("|")
    frame["id"] = frame["id"].astype(float)  # as a column of floats is written: 7.0
    frame.to_parquet(tmp_path / "items.parquet")
    data = Lists.model_validate({"path": tmp_path / "log", "items": tmp_path / "items.parquet"})
    (tmp_path / "log").write_text(LISTS, encoding="utf-8")
    assert titles(data) == TITLES
    assert dict(zip(data.load().item_ids, data.load().item_columns["genres"], strict=True)) == {
        "7": "a|b",
        "9": "",
        "12": "b",
        "007": "",
    }


def test_a_data_frame_of_items_is_part_of_the_content() -> None:
    rows = pd.DataFrame({"user": list("aabb"), "item": [1, 2, 2, 3], "timestamp": [1, 2, 3, 4]})
    films = pd.DataFrame({"title": ["x", "y", "z"], "item": [3, 2, 1]})
    data = Frame.of(rows, items=films)
    assert data.load().item_columns["title"].tolist() == ["z", "y", "x"]
    other = Frame.of(rows, items=films.assign(title="w"))
    assert len({Frame.of(rows).content, data.content, other.content}) == 3


def test_items_without_a_row_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_items(tmp_path, None, TSV).load()
    assert "1 of 4 items have no row; they have no text" in caplog.text


@given(st.permutations(FILMS), st.integers(0, 2))
def test_columns_survive_filters_and_the_file_of_the_split(
    tmp_path_factory: pytest.TempPathFactory, films: list[tuple[str, ...]], k_core: int
) -> None:
    folder = tmp_path_factory.mktemp("core")
    tsv = "\n".join(["movie\ttitle\tgenres", *("\t".join(film) for film in films)])
    data = with_items(folder, None, tsv).model_copy(update={"k_core": k_core})
    data = data.model_copy(update={"short_users": "train_only"})
    split = open_split(prepare(data, Clients()))
    assert dict(zip(split.item_ids, split.item_columns["title"], strict=True)) == {
        each: TITLES[each] for each in split.item_ids
    }
    assert ("007" in split.item_ids) == (k_core < 2)


def test_columns_of_users_survive_too() -> None:
    data = load_experiment({"data": {"name": "synthetic", "users": 20, "items": 30}}).data
    loaded, split = data.load(), split_of(data, Clients())
    before = dict(zip(loaded.user_ids, loaded.user_columns["taste_group"], strict=True))
    after = dict(zip(split.user_ids, split.user_columns["taste_group"], strict=True))
    assert after == before


def test_another_text_is_another_split_but_not_another_place(tmp_path: Path) -> None:
    one = with_items(tmp_path, None, TSV)
    same = with_items(tmp_path, None, gzip.compress(TSV.encode(), mtime=0), "elsewhere")
    other = with_items(tmp_path, None, TSV.replace("Seven", "Sieben"), "other")
    assert prepare(one, Clients()) == prepare(same, Clients()) != prepare(other, Clients())


@pytest.mark.parametrize(
    ("content", "items", "message"),
    [
        (TSV, {"id": "titel"}, "no column 'titel' (did you mean 'title'?); set data.items.id"),
        (TSV.replace("genres", "title"), None, "two columns are named 'title'; rename one"),
        (TSV.replace("\n12", "\n7"), None, "line 4: id '7' stands in line 2 already"),
        (TSV.replace("\n12", "\n"), None, "line 4, column of ids: is empty, expected an id"),
        (TSV.replace("\n", "\nx"), None, "none of its ids, such as 'x7', is one of"),
        (TSV + "\tmore", None, "line 4: has 4 cells, expected 3"),
        (TSV, {"names": ["id"]}, "has 3 columns, data.items.names has 1"),
        ("", None, "the file is empty"),
    ],
)
def test_what_is_wrong_with_the_file_is_said(
    tmp_path: Path, content: str, items: Any, message: str
) -> None:
    with pytest.raises(DataError) as raised:
        with_items(tmp_path, items, content).load()
    assert message in str(raised.value)
    assert str(raised.value).startswith(str(tmp_path / "items"))
    assert "\n" not in str(raised.value)


def test_variables_of_the_environment_stand_in_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_DATA", str(tmp_path))
    monkeypatch.delenv("OTHER_DATA", raising=False)
    data = Csv.model_validate({"path": "${SOME_DATA}/a", "items": "${SOME_DATA}/$b"})
    assert data.path == tmp_path / "a"
    assert data.items is not None and data.items.path == tmp_path / "$b"
    with pytest.raises(ConfigError, match=r"^path: .*the environment variable OTHER_DATA is not"):
        Csv.model_validate({"path": "${OTHER_DATA}/a"})
    with pytest.raises(ConfigError, match=r"^items\.path: .*variable OTHER_DATA is not set"):
        Csv.model_validate({"path": "a", "items": "${OTHER_DATA}/a"})
