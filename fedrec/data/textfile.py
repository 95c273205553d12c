"""Text files, from bytes to cells: unpacked, recognised by how they begin, decoded, read strictly.

A line holds one interaction, or one user and its items.
"""

import bz2
import codecs
import csv
import gzip
import hashlib
import io
import logging
import lzma
import re
import stat
import zipfile
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fedrec.data.columns import NUMBER, WHOLE, Cells, Columns, Table
from fedrec.errors import DataError, FedRecError, require
from fedrec.types import IntArray

KINDS: Mapping[int, str] = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
MARKS: Mapping[bytes, str] = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Which of the first four bytes are zero, in encodings without a mark.
ZEROS: Mapping[tuple[bool, ...], str] = {
    (False, True, False, True): "utf-16-le",
    (True, False, True, False): "utf-16-be",
    (False, True, True, True): "utf-32-le",
    (True, True, True, False): "utf-32-be",
}
PACKINGS = (".gz", ".bz2", ".xz", ".zst", ".zip")
AS_CSV = "save the table as csv"
UNPACK = "unpack it"
FOREIGN: Mapping[bytes, tuple[str, str]] = {
    b"PAR1": ("a Parquet file", "set data.name: parquet"),
    b"SQLite format 3\0": ("an SQLite database", AS_CSV),
    b"\xd0\xcf\x11\xe0": ("an old Office document, such as .xls", AS_CSV),
    b"\x89HDF": ("an HDF5 file", AS_CSV),
    b"ARROW1": ("an Arrow file", "save it as Parquet"),
    b"FEA1": ("a Feather file", "save it as Parquet"),
    b"ORC": ("an ORC file", "save it as Parquet"),
    b"\x93NUMPY": ("a numpy array", "use fedrec.data.Frame.of"),
    b"\x80\x04": ("a pickle", "use fedrec.data.Frame.of"),
    b"\x80\x05": ("a pickle", "use fedrec.data.Frame.of"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", UNPACK),
    b"Rar!": ("a RAR archive", UNPACK),
    b"\x1f\x9d": ("a compressed file (.Z)", UNPACK),
    b"\x04\x22\x4d\x18": ("a compressed file (lz4)", UNPACK),
    b"version https://git-lfs": ("a Git LFS pointer and not the data", "run: git lfs pull"),
    b"<!doctype": ("a web page", "download the data itself"),
    b"<html": ("a web page", "download the data itself"),
    b"<?xml": ("an XML document", AS_CSV),
    b"{": ("a JSON document", AS_CSV),
    b"[{": ("a JSON document", AS_CSV),
}


def read_bytes(path: Path) -> bytes:
    """Read a file, and unpack it if it begins as gzip, bzip2, xz, zstd or zip does.

    Raises:
        DataError: If there is no such file, it is no regular file, cannot be read or unpacked, or
            is a zip archive of several files.
    """
    try:
        kind = KINDS.get(stat.S_IFMT(path.stat().st_mode))
        if kind:
            raise DataError(f"{path}: is {kind}; expected a file; set data.path to one")
        packed = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).lower()
        raise DataError(
            f"{path}: {reason}; set data.path (from {Path.cwd()}) or give the whole path"
        ) from error
    try:
        while unpack := next((u for mark, u in PACKERS.items() if packed.startswith(mark)), None):
            packed = unpack(packed)
        return packed
    except FedRecError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # each packing fails in its own ways
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: cannot be unpacked: {reason}; the file is damaged, fetch it again"
        ) from error


def separator_of(text: str) -> str:
    r"""Return what stands between cells, from what a configuration says; ``\t`` is a tab.

    Raises:
        ValueError: If it can be none.
    """
    text = text.replace("\\t", "\t")
    if set(text) & set('\r\n\0"'):
        raise ValueError(f"expected characters other than line ends and quote marks, got {text!r}")
    return text


def unpacked_name(path: str | Path) -> Path:
    """Return the name of a file without the ending of what it is packed with."""
    name = Path(Path(path).name)
    return Path(name.stem) if name.suffix in PACKINGS else name


def content_hash(path: Path) -> str:
    """Return the sha256 of a file's content, whatever it is packed with; see `read_bytes`."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def text_of(path: Path, encoding: str) -> str:
    """Return the text of a file, without byte-order mark.

    Args:
        path: The file; see `read_bytes`.
        encoding: Of the text, unless a byte-order mark says otherwise.

    Raises:
        DataError: If it cannot be read, is empty, no text, or not in that encoding.
    """
    content = read_bytes(path)
    start = content[:64].lstrip().lower()
    for mark, (kind, advice) in FOREIGN.items():
        if content.startswith(mark) or (mark[:1] in b"<{[" and start.startswith(mark)):
            raise DataError(f"{path}: is {kind}; expected text; {advice}")
    if content[257:262] == b"ustar":
        raise DataError(f"{path}: is a tar archive; expected text; {UNPACK}")
    marked = next((codec for mark, codec in MARKS.items() if content.startswith(mark)), None)
    codec = marked or encoding
    guess = ZEROS.get(tuple(byte == 0 for byte in content[:4]))
    try:
        is_wide = codecs.lookup(codec).name.startswith(("utf-16", "utf-32"))
        if not marked and (b"\0" not in content[:4096] if is_wide else guess):
            raise DataError(f"{path}: is not {codec}; set data.encoding: {guess or 'utf-8'}")
        text = content.decode(codec)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {line}: byte 0x{content[error.start]:02x} is not {codec}; "
            "set data.encoding, such as latin-1"
        ) from error
    except (ValueError, LookupError) as error:
        raise DataError(f"{path}: {error}; set data.encoding, such as latin-1") from error
    text = text.removeprefix("\ufeff")
    if not text or text.isspace():
        raise DataError(f"{path}: the file is empty; expected interactions")
    return text


def _unzstd(packed: bytes) -> bytes:
    require("pyarrow", "for files packed with zstd")
    import pyarrow

    with pyarrow.CompressedInputStream(pyarrow.BufferReader(packed), "zstd") as stream:
        return bytes(stream.read())


def _unzip(packed: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        names = [each for each in archive.namelist() if not each.endswith("/")]
        names = [each for each in names if not each.startswith("__MACOSX/")]
        if "[Content_Types].xml" in names or "mimetype" in names:
            raise DataError(f"is an Office document, such as Excel's; {AS_CSV}")
        if len(names) != 1:
            raise DataError(
                f"is a zip archive of {len(names)} files; {UNPACK}, and set data.path to one of "
                "them"
            )
        return archive.read(names[0])


# How to unpack what begins with these bytes.
PACKERS: Mapping[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ\0": lzma.decompress,
    b"\x5d\0\0": lzma.decompress,
    b"\x28\xb5\x2f\xfd": _unzstd,
    b"PK\x03\x04": _unzip,
    b"PK\x05\x06": _unzip,
}


Line: TypeAlias = tuple[int, Sequence[str]]  # its number, counted from 1, and its cells
LINE_END = re.compile(r"\r\n|\r|\n")
UNQUOTED = "if quote marks belong to the cells, set data.quoted: false"

_log = logging.getLogger("fedrec.data")


def text_table(
    source: str, text: str, *, separator: str, header: bool = True, quoted: bool = False
) -> Table:
    """Return the cells of a text: one row for each line that is not blank.

    Args:
        source: The file.
        text: The whole text.
        separator: One or more characters between cells, taken literally; a space stands for one
            or more spaces.
        header: Whether the first line names the columns; otherwise they are numbered from 0.
        quoted: Whether a cell may stand in double quotes. It may then hold separators, if they are
            one character.

    Raises:
        DataError: If the first line cannot be read.
    """
    quoted = quoted and '"' in text
    try:
        first = next((cells for _, cells in _split(text, separator, quoted)), [""])
    except csv.Error as error:
        raise DataError(f"{source}: {error}") from error
    problems: dict[str, list[str]] = defaultdict(list)
    with_break = list[int]()

    def rows() -> Iterator[Line]:
        try:
            for number, (line, cells) in enumerate(_split(text, separator, quoted)):
                if len(cells) > len(first):
                    problems["width"].append(
                        f"line {line}: has {len(cells)} cells, expected {len(first)}; is the "
                        f"separator {separator!r} right? Set data.separator"
                    )
                elif not header or cells != first:
                    if quoted and any("\n" in cell or "\r" in cell for cell in cells):
                        with_break.append(line)
                    yield line, cells
                elif number:
                    problems["header"].append(f"line {line}: repeats the header")
        except csv.Error as error:
            problems["quotes"].append(str(error))
        if with_break:
            more = f", {len(with_break):,} lines in all" if len(with_break) > 1 else ""
            _log.warning(
                f"{source}: a cell of line {with_break[0]} holds a line break{more}; {UNQUOTED}"
            )

    labels = [each.strip() for each in first] if header else range(len(first))
    return _line_table(source, labels, rows(), problems, "" if header else "set data.header: true")


def lists_table(source: str, text: str, separator: str | None, columns: Columns) -> Table:
    """Read one user and its items from each line.

    The columns are the user, the item, and its place among the user's, from 0, as a time. Without
    a separator, ids stand between any white space.
    """
    problems = dict[str, list[str]]()

    def rows() -> Iterator[Line]:
        counts, alone = Counter[str](), 0
        for number, line in enumerate(LINE_END.split(text), start=1):
            user, *items = line.strip().split(separator) or [""]
            alone += bool(user and not items)
            for item in items:
                yield number, (user, item, str(counts[user]))
                counts[user] += 1
        if alone and counts:
            _log.warning(f"{source}: {alone:,} users have no items and are left out")
        elif alone:
            problems["items"] = ["no line has an id after the user's; set data.separator"]

    return _line_table(source, [*columns.named()], rows(), problems, "remove the line")


def _line_table(
    source: str,
    labels: Sequence[Any],
    lines: Iterable[Line],
    problems: dict[str, list[str]],
    if_named: str,
) -> Table:
    """Return a table of lines, read once; what to do ``if_named`` columns stand in the first."""
    numbers = array("q")

    def read(places: Sequence[int]) -> list[Cells]:
        columns = [(at, array("q"), defaultdict[str, int](count().__next__)) for at in places]
        for number, line in lines:
            numbers.append(number)
            for place, codes, indices in columns:
                codes.append(indices[line[place] if place < len(line) else ""])
        cells = [(np.array(codes, np.int64), list(indices)) for _, codes, indices in columns]
        # The user and the item come first.
        if if_named and all(_begins_with_name(*each) for each in cells[:2]):
            advice = f"expected ids, got names of columns; {if_named}"
            problems["header"] = [f"line {numbers[0]}: {advice}"]
        return cells

    return Table(
        source=source,
        labels=labels,
        cells=read,
        where=lambda row: f"line {numbers[row]}",
        problems=problems,
    )


def _split(text: str, separator: str, quoted: bool) -> Iterator[Line]:
    """Yield the first line and the cells of each row that is not blank.

    Raises:
        csv.Error: If quote marks are out of place.
    """
    if len(separator) > 1 or separator == " ":
        spaces = f" {{{len(separator)},}}"
        pattern = re.compile(re.escape(separator) if separator.strip(" ") else spaces)
        around = ' "' if quoted else " "
        for number, line in enumerate(LINE_END.split(text), start=1):
            if line.strip():
                yield number, [cell.strip(around) for cell in pattern.split(line.strip(" "))]
        return
    csv.field_size_limit(max(len(text) + 1, csv.field_size_limit()))
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=separator,
        skipinitialspace=True,
        strict=True,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )
    start = 1
    try:
        for cells in reader:
            if len(cells) > 1 or (cells and cells[0].strip()):
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(
            f"line {start}: a quote mark opens a cell, but none closes it at its end; {UNQUOTED}"
        ) from error


def _begins_with_name(codes: IntArray, values: list[str]) -> bool:
    """Return whether the first cell alone is no number."""
    first, *others = [value.strip() for value in values] or ["0"]
    is_name = NUMBER.fullmatch(first) is None and (codes == 0).sum() == 1
    return is_name and len(others) > 0 and all(map(WHOLE.fullmatch, others))
