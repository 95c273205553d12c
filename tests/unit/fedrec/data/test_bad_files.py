"""Files that are no table, and tables with bad cells: one line says what to do about each."""

import gzip
import os
import socket
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest

from fedrec.data import Csv, Inter, Lists, Parquet
from fedrec.data.base import DataProblems
from fedrec.data.clients import Clients
from fedrec.data.prepare import split_of
from fedrec.errors import DataError
from tests.own_files import COLUMNS, HEAD, TEXT, csv, file, refusal, zipped, zstd

FOREIGN: Mapping[str, tuple[bytes, str]] = {
    "nothing": (b"", "the file is empty"),
    "white space": (b" \n\n", "the file is empty"),
    "parquet": (b"PAR1....", "is a Parquet file; expected text; set data.name: parquet"),
    "workbook": (zipped({"[Content_Types].xml": ""}), "is an Office document"),
    "two files": (zipped({"a": "", "b": ""}), "is a zip archive of 2 files; unpack it"),
    "database": (b"SQLite format 3\0", "is an SQLite database"),
    "web page": (b"\n<!DOCTYPE html>", "is a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
    "tar": (b"a" * 257 + b"ustar", "is a tar archive"),
    "UTF-16 without mark": (TEXT.encode("utf-16-le"), "set data.encoding: utf-16-le"),
    "UTF-32 without mark": (TEXT.encode("utf-32-be"), "set data.encoding: utf-32-be"),
    "latin-1": (HEAD.encode() + b"\xe9,1,1,1\n", "line 2: byte 0xe9 is not utf-8; set data.enc"),
    "NUL": (
        TEXT.replace("i2", "i\0").encode(),
        "line 4, column 'item': expected an id in one line of text, got .*; is the file damaged",
    ),
    "short gzip": (gzip.compress(TEXT.encode())[:30], "cannot be unpacked"),
    "short zstd": (zstd(TEXT.encode())[:30], "cannot be unpacked"),
    "no header": (TEXT[len(HEAD) :].encode(), "set data.header: false"),
    "lists": (b"1 2 3\n2 3 4\n", "set data.name: lists"),
    "unclosed": (TEXT.encode() + b'9,"i,1,1\n', "line 18: a quote mark opens .* data.quoted: f"),
    "two quotes": (
        (HEAD + '1,"a,1,1\n2,b,1,1\n3,"c,1,1\n').encode(),
        "line 2: a quote mark opens .* data.quoted: false",
    ),
    "line break": (
        (HEAD + '1,"a\nb",1,1\n').encode(),
        r"line 2, column 'item': expected an id in one line .*'a.nb'; .* data.quoted: false",
    ),
    "two headers": ((TEXT + TEXT).encode(), "line 18: repeats the header"),
    "same name": (TEXT.replace("rating", "user").encode(), "two columns are named 'user'"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_no_table_is_named(case: str) -> None:
    content, message = FOREIGN[case]
    with pytest.raises(DataError, match=message) as caught:
        csv(content).load()
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_named_and_never_awaited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.symlink("nowhere", "link")
    os.symlink("loop", "loop")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        for path, message in {
            "pipe": "is a named pipe",
            "socket": "is a socket",
            ".": "is a directory",
            "/dev/zero": "is a device",
            "link": "no such file",
            "loop": "too many levels of symbolic links",
            "absent": "no such file",
        }.items():
            for kind in (Csv, Inter, Parquet, Lists):
                assert message in refusal(kind(path=Path(path)))
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    file(TEXT, home)
    assert len(Csv.model_validate({"path": "~/log.csv", "columns": COLUMNS}).load()) == 16


def test_all_problems_are_reported_together() -> None:
    text = TEXT + "5,i1,,1\n5,i2,x,1\n,i3,1,1\n0,i0,1,1\n1,2,3,4,5\n"
    with pytest.raises(DataProblems) as caught:
        split_of(csv(text), Clients())
    for message in (
        "line 18, column 'rating': is empty",
        "line 19, column 'rating': expected a finite number, got 'x'",
        "line 20, column 'user': is empty",
        "line 22: has 5 cells, expected 4",
        "user '0' has item 'i0' more than once",
    ):
        assert message in str(caught.value)
    assert len(caught.value.lines) == 5
    with pytest.raises(DataProblems) as caught:
        split_of(csv(TEXT + "0,i0,1,1\n9,i1,1,1\n", threshold=9), Clients())
    assert [line.partition(";")[2].partition(" to")[0] for line in caught.value.lines] == [
        " set data.duplicates",
        " the highest is 4",
        " set data.short_users",
    ]


def test_many_problems_of_a_kind_are_counted() -> None:
    message = refusal(csv(HEAD + "1,2,x,1\n" * 500))
    assert message.count("column 'rating'") == 3
    assert "(and 497 more such lines)" in message


def test_a_cell_that_is_not_used_may_be_long_and_hold_line_breaks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = HEAD.replace("\n", ",review\n") + f'1,2,3,4,"{"good " * 50_000}\nindeed"\n2,2,3,4,\n'
    assert len(csv(text).load()) == 2
    assert "a cell of line 2 holds a line break" in caplog.text


def test_reading_takes_memory_in_proportion_to_the_file() -> None:
    text = HEAD + "".join(f"{row},{row % 70},1,{row}\n" for row in range(20_000))
    long = text + "1," + "x" * 250 + ",1,1\n"
    peaks = []
    for content in (text, long):
        source = csv(content)
        tracemalloc.start()
        source.load()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
