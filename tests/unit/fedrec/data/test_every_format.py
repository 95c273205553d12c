"""What holds for every format: the same rows give the same interactions, and bad ones a line."""

import bz2
import datetime
import decimal
import gzip
import io
import lzma
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data import Csv, DataSet, Frame, Inter, Lists, Parquet
from fedrec.data.clients import Clients
from fedrec.data.prepare import prepare, split_of, version_of
from fedrec.errors import ConfigError, DataError
from tests.own_files import COLUMNS, HEAD, TEXT, csv, file, refusal, rows, zipped, zstd

ids = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=9),
    st.sampled_from(["007", "1.0", "1e3", "+1", "NA", "null", "None", "True", '"', "a,b", "x y"]),
)
tables = st.lists(
    st.tuples(ids, ids, st.floats(-1e300, 1e300), st.integers(-(2**53), 2**53)), min_size=1
)


@settings(deadline=None)
@given(tables)
def test_a_table_is_the_same_in_every_format(table: list[tuple[str, str, float, int]]) -> None:
    frame = pd.DataFrame(table, columns=list(COLUMNS.values()))
    expected = Frame.of(frame, rating="rating", timestamp="time").load()
    folder = Path(tempfile.mkdtemp())
    frame.to_parquet(folder / "log.parquet")
    text = frame.to_csv(index=False)
    typed = (
        frame.to_csv(
            index=False, sep="\t", quoting=3, header=False, escapechar="\\", quotechar="\x01"
        )
        if not any("\\" in cell for row in table for cell in row[:2])
        else None
    )
    sources: list[DataSet] = [
        csv(text),
        csv(frame.to_csv(index=False, sep=";"), separator=";"),
        csv(frame.to_csv(index=False, sep="\t").encode("utf-16"), separator="\t"),
        Parquet.model_validate({"path": folder / "log.parquet", "columns": COLUMNS}),
        Frame.of(pa.Table.from_pandas(frame), rating="rating", timestamp="time"),
    ]
    if typed is not None:
        head = "user:token\titem:token\trating:float\ttime:float\n"
        path = file(head + typed, folder, "log.inter")
        sources.append(Inter.model_validate({"path": path, "columns": COLUMNS}))
    for source in sources:
        assert rows(source.load()) == rows(expected), source


@settings(deadline=None)
@given(st.sampled_from(["|", "::", "¦", "||", ".*", "\\", "€", "\t", "^", " - "]), tables)
def test_a_separator_is_taken_literally(separator: str, table: list[tuple[Any, ...]]) -> None:
    plain = [(f"u{at}", f"i{at % 3}", at, at) for at in range(len(table))]
    text = "\n".join(separator.join(map(str, row)) for row in [tuple(COLUMNS.values()), *plain])
    assert rows(csv(text, separator=separator).load()) == plain


@settings(deadline=None)
@given(st.data(), st.sampled_from(["csv", "gz", "inter", "parquet", "lists"]))
def test_a_damaged_byte_gives_one_line_or_interactions(data: st.DataObject, kind: str) -> None:
    frame = pd.read_csv(io.StringIO(TEXT))
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    tabs = TEXT.replace(",", "\t").replace(
        HEAD.replace(",", "\t"), "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    )
    content = {
        "csv": TEXT.encode(),
        "gz": gzip.compress(TEXT.encode()),
        "inter": tabs.encode(),
        "parquet": buffer.getvalue(),
        "lists": b"1 2 3\n4 5\n",
    }[kind]
    at = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.sampled_from([0, 10, 13, 34, 44, 9, 32, 0x41, 0x80, 0xFF]))
    damaged = content[:at] + bytes([byte]) + content[at + 1 :]
    path = file(damaged)
    source: DataSet = {
        "inter": Inter(path=path),
        "parquet": Parquet.model_validate({"path": path, "columns": COLUMNS}),
        "lists": Lists(path=path),
    }.get(kind) or Csv.model_validate({"path": path, "columns": COLUMNS})
    try:
        assert len(source.load()) > 0
    except DataError as error:
        assert "\n" not in str(error)


EAST = datetime.timezone(datetime.timedelta(hours=9))
DAY = pd.Timestamp("2020-01-01")
NULLABLE: Mapping[str, Any] = {
    "datetime64[ns]": pd.Series([DAY, pd.NaT]).astype("datetime64[ns]"),
    "datetime64[s]": pd.Series([DAY, pd.NaT]).astype("datetime64[s]"),
    "with time zone": pd.Series([DAY, pd.NaT]).dt.tz_localize("Asia/Tokyo"),
    "Int64": pd.array([1, None], dtype="Int64"),
    "Float64": pd.array([1, None], dtype="Float64"),
    "boolean": pd.array([True, None], dtype="boolean"),
    "string": pd.array(["1", None], dtype="string"),
    "category": pd.Categorical(["1", None]),
    "category of dates": pd.Categorical([DAY, None]),
    "float": [1.0, np.nan],
    "None among numbers": np.array([1, None], object),
    "NaN among text": np.array(["1", np.nan], object),
    "decimal": np.array([decimal.Decimal(1), decimal.Decimal("NaN")], object),
    "dates": np.array([datetime.date(2020, 1, 1), None], object),
    "blank text": ["1", " "],
    "period": pd.PeriodIndex(["2020-01", None], freq="M"),
    "timedelta": pd.to_timedelta(["1s", None]),
    **{
        f"Arrow {kind}": pd.Series([value, None], dtype=pd.ArrowDtype(kind))
        for kind, value in {
            pa.int64(): 1,
            pa.string(): "1",
            pa.bool_(): True,
            pa.timestamp("us"): DAY,
            pa.date32(): DAY.date(),
            pa.decimal128(5, 2): decimal.Decimal(1),
            pa.list_(pa.int64()): [1],
        }.items()
    },
}


@pytest.mark.parametrize("column", COLUMNS.values())
@pytest.mark.parametrize("kind", NULLABLE)
def test_a_missing_value_is_named_by_row_and_column(column: str, kind: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "rating": [1, 2], "time": [3, 4]})
    frame[column] = NULLABLE[kind]
    with pytest.raises(DataError, match=rf"row 2, column '{column}': is empty"):
        Frame.of(frame, rating="rating", timestamp="time")
    frame.to_parquet(tmp_path / "log.parquet")
    stored = Parquet.model_validate({"path": tmp_path / "log.parquet", "columns": COLUMNS})
    assert f"row 2, column '{column}': is empty" in refusal(stored)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([2**53 + 1, 1], "holds exactly, got 9007199254740993"),
        (["9007199254740993", "1"], "holds exactly, got 9007199254740993"),
        (np.array([2**64 - 1, 1], np.uint64), "holds exactly, got 18446744073709551615"),
        ([1 + 2j, 1], "expected a finite number or a date such as 2024-05-01, got (1+2j)"),
        ([[1], [2]], "got [1]"),
        ([b"1", b"2"], "got b'1'"),
        ([True, False], "got true"),
        (pd.array([True, False], dtype="boolean"), "got true"),
        (["now", "today"], "got 'now'"),
        (["2020-01-40", "2020-01-01"], "got '2020-01-40'"),
        ([np.inf, 1.0], "expected a finite number"),
        (pd.to_datetime([1, 2]), "expected a time in whole microseconds"),
        (pd.PeriodIndex(["2020-01", "2020-02"], freq="M"), "got Period"),
    ],
)
def test_times_are_exact_or_refused(cells: Any, message: str) -> None:
    frame = pd.DataFrame({"user": [1, 2], "item": [1, 2], "time": cells})
    with pytest.raises(DataError) as caught:
        Frame.of(frame, timestamp="time")
    assert str(caught.value).startswith("data frame: row 1, column 'time': expected ")
    assert message in str(caught.value)


@pytest.mark.parametrize("column", ["user", "time"])
@pytest.mark.parametrize(
    "dtype", ["float32", "Float32", "float16", pd.ArrowDtype(pa.float32()), "float64"]
)
def test_a_number_that_its_type_rounds_is_refused(column: str, dtype: Any, tmp_path: Path) -> None:
    limit = {"float16": 2.0**11, "float64": 2.0**53}.get(dtype, 2.0**24)
    frame = pd.DataFrame({"user": [1, 2], "item": [1, 2], "time": [1, 2]})
    for value, is_exact in ((limit - 1, True), (limit, dtype == "float64" and column == "time")):
        frame[column] = pd.Series([value, 1.0], dtype=dtype)
        if is_exact:
            assert len(Frame.of(frame, timestamp="time").load()) == 2
            continue
        with pytest.raises(DataError, match=f"row 1, column '{column}': expected an.* exact"):
            Frame.of(frame, timestamp="time")


@settings(deadline=None)
@given(st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2240, 1, 1)))
def test_a_time_is_the_same_in_every_type(time: datetime.datetime) -> None:
    seconds = (time - datetime.datetime(1970, 1, 1)) / datetime.timedelta(seconds=1)
    stamp = pd.Timestamp(time)
    for cells in (
        [time],
        np.array([time], object),
        [time.isoformat()],
        [stamp.tz_localize("UTC").tz_convert(EAST)],
        [stamp.tz_localize("UTC").tz_convert(EAST).isoformat()],
        pd.Categorical([time]),
    ):
        frame = pd.DataFrame({"user": [1], "item": [1], "time": cells})
        times = Frame.of(frame, timestamp="time").load().timestamps
        assert times is not None
        assert times.tolist() == [pytest.approx(seconds, abs=2e-7)]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1.0", "2.0"], ["1", "2"]),
        (["1.0", "2"], ["1", "2"]),
        (["1.0", "a"], ["1.0", "a"]),
        (["1.0", "1.5"], ["1.0", "1.5"]),
        (["01", "1"], ["01", "1"]),
        (["1e3", "+1"], ["1e3", "+1"]),
        ([" 1", "2 "], ["1", "2"]),
        (["True", "False"], ["True", "False"]),
        (["18446744073709551615", "9007199254740993"], None),
    ],
)
def test_one_rule_for_ids_that_look_like_numbers(
    cells: list[str], expected: list[str] | None, tmp_path: Path
) -> None:
    text = "user,item\n" + "".join(f"{cell},{cell}\n" for cell in cells)
    columns = {"user": "user", "item": "item"}
    typed = text.replace(",", "\t").replace("user\titem", "user:token\titem:token")
    frames = [pd.DataFrame({"user": cells, "item": cells}), pd.read_csv(io.StringIO(text))]
    sources: list[DataSet] = [csv(text, columns=columns), *map(Frame.of, frames)]
    path = file(typed, tmp_path, "log.inter")
    sources.append(Inter.model_validate({"path": path, "columns": columns}))
    if expected in (["01", "1"], ["1e3", "+1"]):
        del sources[2]  # pandas itself reads these as numbers
    for source in sources:
        assert [row[0] for row in rows(source.load())] == (expected or cells), source
    pairs = file("".join(f"{cell.strip()} {cell.strip()}\n" for cell in cells), tmp_path)
    assert [row[1] for row in rows(Lists(path=pairs).load())] == (expected or cells)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd])
def test_packed_files_are_read_and_their_content_counts(
    pack: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path / "cache"))
    plain = csv(TEXT)
    for content, name in ((pack(TEXT.encode()), "log.csv.gz"), (TEXT.encode(), "other.txt")):
        other = plain.model_copy(update={"path": file(content, name=name)})
        assert rows(other.load()) == rows(plain.load())
        assert other.fingerprint() == plain.fingerprint()
        assert version_of(prepare(other, Clients())) == version_of(prepare(plain, Clients()))
        assert other.load().name == name.partition(".")[0]
    zips = zipped({"a.csv": TEXT, "__MACOSX/._a.csv": ""})
    for content in (zips, gzip.compress(zips), lzma.compress(TEXT.encode(), lzma.FORMAT_ALONE)):
        assert rows(csv(content).load()) == rows(plain.load())


def test_lists_of_items(tmp_path: Path) -> None:
    path = file("ann 3 1 2\nbob 1 2 3 \n\nann 4\ncleo\n", tmp_path, "seq.txt")
    ordered = Lists(path=path, ordered=True).load()
    assert rows(ordered) == [
        *(("ann", "3", 0.0), ("ann", "1", 1.0), ("ann", "2", 2.0)),
        *(("bob", "1", 0.0), ("bob", "2", 1.0), ("bob", "3", 2.0), ("ann", "4", 3.0)),
    ]
    assert Lists(path=path).load().timestamps is None
    assert ordered.name == "seq"
    split = split_of(Lists(path=path, ordered=True), Clients())
    assert split.item_ids[split.test.values].tolist() == ["4", "3"]
    for content, message in {
        "1,2,3\n2,3\n": "no line has an id after the user's; set data.separator",
        "user items\n1 2 3\n": "line 1: expected ids, got names of columns; remove the line",
    }.items():
        assert message in refusal(Lists(path=file(content, tmp_path, "bad.txt")))
    with pytest.raises(ValueError, match="temporal needs times"):
        Lists.model_validate({"path": path, "split": {"name": "temporal"}})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (1, "expected a table with columns of one length, such as pandas.DataFrame, got int"),
        (None, "no column 'user'"),
        (pd.Series([1, 2]), "no column 'user'"),
        ({"user": [1], "item": [1, 2]}, "expected a table with columns of one length"),
        (np.zeros((2, 2)), r"no column 'user' .known: 0, 1.; name it with user= of Frame.of"),
        ({"user": [], "item": []}, "no interactions"),
        (pd.DataFrame({"user": [1], "item": [2]}).set_index("user"), "frame.reset_index()"),
        (pd.DataFrame([[1, 2, 3]], columns=["user", "user", "item"]), "two columns are named"),
    ],
)
def test_what_is_no_table_is_refused_by_frame_of(table: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Frame.of(table)


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ("users", "did you mean 'user'"),
        ("k_cor", "did you mean 'k_core'"),
        ("columns", "keyword 'columns'"),
        ("zzz", "known: duplicates, item, k_core"),
    ],
)
def test_frame_of_names_the_keyword_that_it_does_not_know(keyword: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Frame.of(pd.DataFrame({"user": [1], "item": [2]}), **{keyword: "user"})
    assert "\n" not in str(caught.value)


def test_frame_of_takes_what_is_a_table() -> None:
    record = np.array([(1, 2)], dtype=[("user", int), ("item", int)])
    for table in (
        *({"user": [1], "item": [2]}, [{"user": 1, "item": 2}], record),
        *(pa.table({"user": [1], "item": [2]}), pd.DataFrame({"user": [1.0], "item": ["2"]})),
    ):
        assert rows(Frame.of(table).load()) == [("1", "2")]
    assert rows(Frame.of(np.array([[1, 2]]), user=0, item=1).load()) == [("1", "2")]
