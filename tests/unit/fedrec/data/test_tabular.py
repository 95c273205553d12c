import gzip
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.config.experiment import Experiment, load_experiment
from fedrec.data import Csv, Frame, Inter, Parquet
from fedrec.data.clients import Clients
from fedrec.data.columns import Columns
from fedrec.data.prepare import split_of
from fedrec.errors import ConfigError, DataError, MissingExtra
from fedrec.types import Interactions

HEADED = "who,what,stars,when\nann,10,4.5,100\nbob,9,3,90\nann,9,1e0,80\n"
COLUMNS = {"user": "who", "item": "what", "rating": "stars", "timestamp": "when"}


def write(folder: Path, text: str | bytes, name: str = "log.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rows(data: Interactions) -> list[tuple[Any, ...]]:
    parts: list[Any] = [data.user_ids[data.users], data.item_ids[data.items]]
    parts += [part for part in (data.ratings, data.timestamps) if part is not None]
    return list(zip(*(part.tolist() for part in parts), strict=True))


EXPECTED = [("ann", "10", 4.5, 100.0), ("bob", "9", 3.0, 90.0), ("ann", "9", 1.0, 80.0)]


def test_csv_reads_names_numbers_and_raw_ids(tmp_path: Path) -> None:
    data = Csv.model_validate({"path": write(tmp_path, HEADED), "columns": COLUMNS}).load()
    assert rows(data) == EXPECTED
    assert data.user_ids.tolist() == ["ann", "bob"]
    assert data.item_ids.tolist() == ["9", "10"]
    assert data.name == "log"


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (gzip.compress(HEADED.encode(), mtime=0), {}),
        (HEADED.replace("\n", "\r\n"), {}),
        ("\ufeff" + HEADED, {}),
        (HEADED.replace("\nbob", "\n\nbob"), {}),
        (HEADED.replace(",", ", "), {}),
        (HEADED.replace("ann,", '"ann",'), {}),
        (HEADED.replace(",", "\t"), {"separator": "\t"}),
        (HEADED.replace(",", "::"), {"separator": "::"}),
        (HEADED.replace(",", "||"), {"separator": "||"}),
        (HEADED.encode("utf-16"), {"encoding": "utf-16"}),
        (HEADED.partition("\n")[2].replace(",", " "), {"separator": " ", "header": False}),
        (HEADED.partition("\n")[2].replace(",", "::"), {"separator": "::", "header": False}),
    ],
)
def test_csv_reads_the_same_from_every_dialect(
    tmp_path: Path, content: str | bytes, options: dict[str, Any]
) -> None:
    columns = dict(zip(COLUMNS, range(4), strict=True)) if "header" in options else COLUMNS
    path = write(tmp_path, content)
    assert (
        rows(Csv.model_validate({"path": path, "columns": columns, **options}).load()) == EXPECTED
    )


def test_all_sources_give_the_same_interactions(tmp_path: Path) -> None:
    frame = pd.DataFrame(EXPECTED, columns=list(COLUMNS))
    frame.to_parquet(tmp_path / "log.parquet")
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\tnote:token\n"
    lines = "".join("\t".join([*map(str, row), '"quoted']) + "\n" for row in EXPECTED)
    named = dict(zip(COLUMNS, COLUMNS, strict=True))
    sources = [
        Parquet.model_validate({"path": tmp_path / "log.parquet", "columns": named}),
        Inter(path=write(tmp_path, header + lines, "log.inter")),
        Inter(path=write(tmp_path, gzip.compress((header + lines).encode()), "log.inter.gz")),
        Frame.of(frame, rating="rating", timestamp="timestamp"),
    ]
    for source in sources:
        assert rows(source.load()) == EXPECTED, source
    assert [source.unread() for source in sources] == [[], ["note"], ["note"], []]
    fewer = sources[0].model_copy(update={"columns": Columns(item="user", user="item")})
    assert fewer.unread() == ["rating", "timestamp"]


def test_a_column_has_one_name_whatever_its_type(tmp_path: Path) -> None:
    path = write(tmp_path, "1,2\n3,4\n")
    frame = pd.DataFrame([[1, 2], [3, 4]])
    for user, item in ((0, 1), ("0", "1")):
        columns = {"user": user, "item": item}
        given = {"path": path, "header": False, "columns": columns}
        for source in (Csv.model_validate(given), Frame.of(frame, user=user, item=item)):
            assert rows(source.load()) == [("1", "2"), ("3", "4")]


def test_ids_come_back_as_they_were_written(tmp_path: Path) -> None:
    text = "user,item\n007,0120735\n7,0120735\nNA,null\n-3,1.0\n"
    data = Csv(path=write(tmp_path, text)).load()
    assert [row[0] for row in rows(data)] == ["007", "7", "NA", "-3"]
    assert [row[1] for row in rows(data)] == ["0120735", "0120735", "null", "1.0"]


def test_dates_become_seconds(tmp_path: Path) -> None:
    text = "user,item,at\na,1,1970-01-01\na,2,1970-01-01T00:01:00Z\na,3,1970-01-02 00:00:00\n"
    path = write(tmp_path, text)
    data = Csv.model_validate({"path": path, "columns": {"timestamp": "at"}}).load()
    assert data.timestamps is not None
    assert data.timestamps.tolist() == [0.0, 60.0, 86400.0]
    frame = pd.DataFrame(
        {"user": [1, 1], "item": [1, 2], "at": pd.to_datetime(["1970-01-01", "1970-01-03"])}
    )
    times = Frame.of(frame, timestamp="at").load().timestamps
    assert times is not None
    assert times.tolist() == [0.0, 172800.0]


BAD = [
    (
        HEADED.replace("bob,9,3", "bob,9,three"),
        {},
        r"line 3, column 'stars': expected a finite number, got 'three'",
    ),
    (HEADED.replace("bob,9,3", "\n\nbob,9,three"), {}, "line 5, column 'stars'"),
    (
        HEADED.replace("bob,9,3", "bob,9,inf"),
        {},
        "line 3, column 'stars': expected a finite number",
    ),
    (
        HEADED.replace("bob,9,3", "bob,9,nan"),
        {},
        "line 3, column 'stars': expected a finite number",
    ),
    (
        HEADED.replace("bob,9,3", "bob,9,"),
        {},
        "line 3, column 'stars': is empty, expected a finite number",
    ),
    (HEADED.replace("bob,9,3", ",9,3"), {}, "line 3, column 'who': is empty, expected an id"),
    (HEADED.replace("bob,9,3", "bob, ,3"), {}, "line 3, column 'what': is empty"),
    (
        HEADED.replace(",90", ",soon"),
        {},
        "line 3, column 'when': .* number or a date",
    ),
    (HEADED.replace(",90", ""), {}, "line 3, column 'when': is empty"),
    (HEADED.replace("100", "2024-01-01"), {}, "line 3, column 'when': .* got '90'"),
    (
        HEADED.replace("bob,9,3,90", "bob,9,3,90,7"),
        {},
        "line 3: has 5 cells, expected 4; .*data.sep",
    ),
    (HEADED.replace("0\n", "0,7\n"), {}, "data.separator"),
    (HEADED.partition("\n")[0], {}, "log.csv: no interactions; expected at least one row"),
    ("", {}, "log.csv: the file is empty"),
    (
        HEADED.replace("stars", "star"),
        {},
        r"no column 'stars' \(did you mean 'star'\?\); set data.columns.ra",
    ),
    (HEADED.encode() + b"b\xffb,1,1,1\n", {}, "set data.encoding"),
    (HEADED, {"encoding": "utf-99"}, "set data.encoding"),
    (HEADED, {"header": False}, "no column 'who' .*data.columns.user to a number from 0"),
    (gzip.compress(HEADED.encode(), mtime=0)[:40], {}, "log.csv: cannot be unpacked"),
    (
        "1,2\n3,4\n",
        {"header": False, "columns": {"user": 0, "item": 5}},
        r"no column '5' .known: 0, 1.; set data.columns.item",
    ),
    (HEADED, {"columns": {"user": 0, "item": 1}}, "no column '0' .*columns.user to a name"),
    (
        "1::a\n2::\n",
        {"header": False, "separator": "::", "columns": {"user": 0, "item": 1}},
        "line 2, column '1': is empty",
    ),
    (
        "1::2::x\n",
        {"header": False, "separator": "::", "columns": {"user": 0, "item": 1, "rating": 2}},
        "line 1, column '2': expected a finite number, got 'x'",
    ),
]


@pytest.mark.parametrize(("content", "options", "message"), BAD)
def test_bad_csv_is_refused_in_one_line(
    tmp_path: Path, content: str | bytes, options: dict[str, Any], message: str
) -> None:
    given = {"path": write(tmp_path, content), "columns": COLUMNS, **options}
    with pytest.raises(DataError, match=message) as caught:
        Csv.model_validate(given).load()
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named_with_the_option() -> None:
    for source in (Csv(path=Path("no.csv")), Parquet(path=Path("no.pq")), Inter(path=Path("no"))):
        with pytest.raises(DataError, match=r"no.*: no such file or directory; set data.path"):
            source.load()
        with pytest.raises(DataError, match="no such file"):
            source.fingerprint()


def test_other_bad_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a readable Parquet file"):
        Parquet(path=write(tmp_path, "text", "a.parquet")).load()
    with pytest.raises(DataError, match="line 1: expected columns as name:type"):
        Inter(path=write(tmp_path, "user_id\titem_id\n1\t2\n", "a.inter")).load()
    with pytest.raises(DataError, match="is a directory"):
        Csv(path=tmp_path).load()
    frame = pd.DataFrame({"user": [1, None], "item": [1, 2]})
    frame.to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet: row 2, column 'user': is empty"):
        Parquet(path=tmp_path / "b.parquet").load()
    rated = "user_id:token\titem_id:token\trating:float\n1\t2\t3\n1\t3\tx\n"
    with pytest.raises(DataError, match=r"c.inter: line 3, column 'rating'"):
        Inter(path=write(tmp_path, rated, "c.inter")).load()


@given(
    st.lists(
        st.tuples(st.integers(-5, 5), st.sampled_from("xyz"), st.floats(-1e300, 1e300)), min_size=1
    )
)
def test_a_frame_comes_back_row_by_row(given_rows: list[tuple[int, str, float]]) -> None:
    frame = pd.DataFrame(given_rows, columns=["user", "item", "rating"])
    data = Frame.of(frame, rating="rating").load()
    assert rows(data) == [(str(user), item, rating) for user, item, rating in given_rows]


def test_whole_floats_are_ids_without_a_point() -> None:
    data = Frame.of(pd.DataFrame({"user": [1.0, 20.0], "item": [2, 3]})).load()
    assert data.user_ids.tolist() == ["1", "20"]


def test_a_frame_is_hashed_and_cannot_come_back_from_yaml() -> None:
    frame = pd.DataFrame({"user": [1, 2], "item": [1, 2], "rating": [1.0, np.nan]})
    data = Frame.of(frame, short_users="train_only")
    assert Frame.of(frame[::-1][::-1], user="user").content == data.content
    assert Frame.of(frame.assign(item=[1, 3])).content != data.content
    experiment = Experiment(data=data)
    assert experiment.data.load().users.tolist() == [0, 1]
    dumped = experiment.model_dump(mode="json")
    assert dumped["data"]["content"] == data.content
    again = load_experiment(dumped)
    with pytest.raises(DataError, match=r"not kept in YAML; give them from Python with .*Frame.of"):
        again.data.load()
    with pytest.raises(DataError, match="data frame: row 2, column 'rating': is empty"):
        Frame.of(frame, rating="rating").load()
    with pytest.raises(DataError, match="data frame: no column 'who'"):
        Frame.of(frame, user="who").load()
    with pytest.raises(DataError, match="data frame: no interactions"):
        Frame.of(frame[:0]).load()


def test_a_bare_table_is_no_data_set() -> None:
    frame = pd.DataFrame({"user": [1], "item": [2]})
    for table in (frame, frame.to_numpy(), frame.to_dict("records")):
        with pytest.raises(ConfigError, match=r"data: .*Frame\.of\(table\)$") as caught:
            Experiment(data=table)
        assert "\n" not in str(caught.value)


def test_the_fingerprint_is_of_content_and_reading(tmp_path: Path) -> None:
    path = write(tmp_path, HEADED)
    one = Csv.model_validate({"path": path, "columns": COLUMNS})
    moved = tmp_path / "moved"
    moved.mkdir()
    assert one.fingerprint() == one.model_copy(update={"path": write(moved, HEADED)}).fingerprint()
    prints = {
        one.fingerprint(),
        one.model_copy(
            update={"columns": one.columns.model_copy(update={"rating": None})}
        ).fingerprint(),
        one.model_copy(update={"separator": ";"}).fingerprint(),
    }
    write(tmp_path, HEADED + "cleo,1,1,1\n")
    assert len(prints | {one.fingerprint()}) == 4
    assert one.model_copy(update={"k_core": 2}).fingerprint() == one.fingerprint()


def test_three_lines_of_yaml_and_a_misspelt_key(tmp_path: Path) -> None:
    path = write(tmp_path, HEADED)
    document = {"data": {"name": "csv", "path": str(path), "columns": COLUMNS}}
    assert rows(load_experiment(document).data.load()) == EXPECTED
    document["data"]["column"] = {}
    with pytest.raises(ConfigError, match=r"data.column: unknown key .did you mean 'columns'"):
        load_experiment(document)


@pytest.mark.parametrize("module", ["pandas", "pyarrow"])
def test_what_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"parquet files, is not installed; run: pip install "):
        Parquet(path=tmp_path / "x.parquet").load()


def test_real_csv_files(data_folder: Path) -> None:
    tweets = Csv.model_validate(
        {
            "path": data_folder / "movietweetings/100K/ratings.dat.gz",
            "separator": "::",
            "header": False,
            "columns": {"user": 0, "item": 1, "rating": 2, "timestamp": 3},
            "short_users": "drop",
        }
    )
    data = tweets.load()
    assert (len(data.user_ids), len(data.item_ids), len(data)) == (16_554, 10_506, 100_000)
    assert data.item_ids[0] == "0002844"
    split_of(tweets, Clients())
    trust = Csv.model_validate(
        {
            "path": data_folder / "filmtrust/ratings.txt.gz",
            "separator": " ",
            "header": False,
            "columns": {"user": 0, "item": 1, "rating": 2},
            "short_users": "train_only",
        }
    )
    with pytest.raises(DataError, match=r"more than once \(3 such rows\); set data.duplicates"):
        split_of(trust, Clients())
    split = split_of(trust.model_copy(update={"duplicates": "last"}), Clients())
    assert (split.n_users, split.n_items) == (1508, 2071)
    assert len(split.train.values) + len(split.valid.values) + len(split.test.values) == 35_494
