"""Bad data: one line that names file and line, before round 1, and nothing left behind."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.integration.refusal import HEAD, ROWS, Fedrec, of, refused, table


def changed(line: int, row: str) -> list[str]:
    """The rows with another one in a line of the file; the head is line 1."""
    rows = list(ROWS)
    rows[line - 2] = row
    return rows


CELLS: Mapping[str, tuple[str, list[str]]] = {
    "text": ("0,4,good,4", ["r.csv: line 4", "'rating'", "a finite number", "'good'"]),
    "not a number": ("0,4,nan,4", ["r.csv: line 4", "'rating'", "finite", "'nan'"]),
    "infinite": ("0,4,-inf,4", ["r.csv: line 4", "'rating'", "finite", "'-inf'"]),
    "empty rating": ("0,4,,4", ["r.csv: line 4", "'rating'", "empty", "a finite number"]),
    "empty user": (",4,3,4", ["r.csv: line 4", "'user'", "empty", "an id"]),
    "empty item": ("0, ,3,4", ["r.csv: line 4", "'item'", "empty", "an id"]),
    "no time": ("0,4,3,soon", ["r.csv: line 4", "'time'", "date", "'soon'"]),
    "a cell short": ("0,4,3", ["r.csv: line 4", "'time'", "empty"]),
    "a cell more": ("0,4,3,4,5", ["r.csv", "line 4", "data.separator"]),
    "twice": (ROWS[1], ["'0'", "'2'", "more than once", "data.duplicates"]),
}


@pytest.mark.parametrize("case", CELLS)
def test_a_bad_cell(command: Fedrec, case: str) -> None:
    row, named = CELLS[case]
    table(*changed(4, row))
    refused(command, of(config="table.yaml"), named)


@pytest.mark.parametrize("item", ["-7", "film", "9" * 30, "007", "é"])
def test_any_text_is_an_id(command: Fedrec, item: str) -> None:
    table(*changed(4, f"0,{item},3,4"))
    assert command(*of(config="table.yaml")).code == 0


TABLES: Mapping[str, tuple[str, list[str], list[str]]] = {
    "no bytes": ("", [], ["r.csv", "empty"]),
    "only a head": (HEAD, [], ["r.csv", "no interactions"]),
    "missing column": (
        "\n".join([HEAD.replace("time", "tme"), *ROWS]),
        [],
        ["r.csv", "no column 'time'", "did you mean 'tme'", "data.columns.timestamp"],
    ),
    "another separator": (
        "\n".join([HEAD, *ROWS]).replace(",", ";"),
        [],
        ["r.csv", "data.separator to ';'"],
    ),
    "another encoding": ("\n".join([HEAD, *ROWS]), ["data.encoding=utf-16"], ["data.encoding"]),
    "no encoding": ("\n".join([HEAD, *ROWS]), ["data.encoding=klingon"], ["data.encoding"]),
    "user with one interaction": (
        "\n".join([HEAD, *ROWS, "99,1,3,5"]),
        [],
        ["user '99' has 1 interaction", "needs 3", "data.short_users"],
    ),
    "threshold above all": (
        "\n".join([HEAD, *ROWS]),
        ["data.threshold=9"],
        ["data.threshold", "9", "highest is 5"],
    ),
    "k-core of nothing": (
        "\n".join([HEAD, *ROWS]),
        ["data.k_core=50"],
        ["data.k_core", "50", "lower it"],
    ),
    "time without a column": (
        "\n".join([HEAD, *ROWS]),
        ["data.columns.timestamp=null", "data.split.name=temporal"],
        ["data.split", "data.columns.timestamp", "leave_one_out"],
    ),
    "rating without a column": (
        "\n".join([HEAD, *ROWS]),
        ["data.columns.rating=null", "data.threshold=3"],
        ["data.threshold", "data.columns.rating"],
    ),
    "a number where names are": (
        "\n".join([HEAD, *ROWS]),
        ["data.columns.user=0"],
        ["data.columns.user", "a name", "data.header"],
    ),
    "missing file": ("", ["data.path=nowhere.csv"], ["nowhere.csv", "no such file", "data.path"]),
    "a folder": ("", ["data.path=."], ["is a directory", "data.path"]),
    "no Parquet": (HEAD, ["data={name: parquet, path: r.csv}"], ["r.csv", "Parquet"]),
    "no inter": (HEAD, ["data={name: inter, path: r.csv}"], ["r.csv: line 1", "name:type", "csv"]),
    "a data frame": ("", ["data={name: frame}"], ["frame", "fedrec.data.Frame.of"]),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_bad_table(command: Fedrec, case: str) -> None:
    text, sets, named = TABLES[case]
    Path("r.csv").write_text(text, encoding="utf-8")
    refused(command, of(*sets, config="table.yaml"), named)


@pytest.mark.parametrize(
    ("row", "way_out"),
    [
        ("99,1,3,5", "data.short_users=drop"),
        ("99,1,3,5", "data.short_users=train_only"),
        (ROWS[0], "data.duplicates=first"),
        (ROWS[0], "data.duplicates=last"),
    ],
)
def test_the_way_out_that_is_named_is_one(command: Fedrec, row: str, way_out: str) -> None:
    table(*ROWS, row)
    refused(command, of(config="table.yaml"), [way_out.partition("=")[0]])
    assert command(*of(way_out, config="table.yaml")).code == 0


def test_a_file_of_interactions_is_checked_as_it_is(command: Fedrec) -> None:
    table(*ROWS)
    done = command("data", "check", "r.csv", "--set", "data.columns.rating=rating")
    assert done.code == 0
    assert "r: 12 users, 20 items" in done.out
    assert "not read: time; data.columns.rating" in done.out
    done = command("data", "check", "table.yaml")
    assert "not read" not in done.out
    Path("r.TSV").write_text(Path("r.csv").read_text().replace(",", "\t"))
    assert "12 users, 20 items" in command("data", "check", "r.TSV").out
    for name in ("nope.csv", "https://a.org/r.csv"):
        refused(command, ["data", "check", name], [f"'{name}' is no file, and no data set"])
    refused(command, ["data", "check", "."], ["is a directory"])
    table(*ROWS, "0,4,good,4")
    named = ["line", "'rating'", "'good'"]
    refused(command, ["data", "check", "r.csv", "--set", "data.columns.rating=rating"], named)
    refused(command, ["data", "check", "ml-100k", "--set", "data.k_core=2"], ["needs a file"])


def test_what_does_not_fit_into_memory(command: Fedrec) -> None:
    Path("big.yaml").write_text("data: {name: synthetic, users: 1000000000000}\n", "utf-8")
    refused(command, ["data", "check", "big.yaml"], ["out of memory", "less data"])


def test_bytes_that_are_no_text(command: Fedrec) -> None:
    Path("r.csv").write_bytes("\n".join([HEAD, *ROWS]).encode()[:60] + b"\xff\xff\n")
    refused(command, of(config="table.yaml"), ["r.csv", "data.encoding"])
    Path("r.csv").write_bytes(b"\x1f\x8bno gzip")
    refused(command, of(config="table.yaml"), ["r.csv", "cannot be unpacked"])


def test_damaged_data_sets(command: Fedrec, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDREC_DATA", str(here / "nowhere"))
    for arguments in (of("data={name: ml-100k}"), ["data", "list"], ["data", "get", "ml-100k"]):
        refused(command, arguments, ["FEDREC_DATA", "unset it"])
    monkeypatch.setenv("FEDREC_DATA", str(here / "data"))
    (here / "data" / "ml-100k").mkdir(parents=True)
    for part in ("inter", "item", "user"):
        (here / "data" / "ml-100k" / f"ml-100k.{part}").write_text("x\n", encoding="utf-8")
    refused(command, of("data={name: ml-100k}"), ["ml-100k.inter: line 1"])
    refused(command, ["data", "check", "ml-100k"], ["ml-100k.inter", "fetch it anew"])
    for word in ("get", "check"):
        refused(command, ["data", word, "ml-100"], ["'ml-100'", "did you mean 'ml-100k'"])
