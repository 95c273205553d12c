"""Text files of interactions: separators, headers, gzip, and which line a row stands in."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from fedrec.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["file_hash", "line_of_row", "open_bytes", "read_table"]


def open_bytes(path: Path) -> IO[bytes]:
    """A file for reading, unpacked where its first bytes say gzip.

    Raises:
        DataError: If there is none, or it cannot be read.
    """
    try:
        with path.open("rb") as handle:
            packed = handle.read(2) == b"\x1f\x8b"
        return cast("IO[bytes]", gzip.open(path)) if packed else path.open("rb")
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; set data.path (from {Path.cwd()}) or give the whole path"
        ) from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror or error}; set data.path to a file"
        ) from error


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes.

    Raises:
        DataError: If there is no such file.
    """
    open_bytes(path).close()
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_table(
    path: Path, *, separator: str, header: bool, encoding: str, quoted: bool
) -> pd.DataFrame:
    """All cells of a text file, as text; an absent cell is empty.

    Args:
        path: The file.
        separator: One or more characters between cells.
        header: Whether the first line names the columns; otherwise they are numbered from 0.
        encoding: Such as ``utf-8``.
        quoted: Whether a cell may stand in double quotes.

    Raises:
        DataError: If the file is missing, damaged, empty, not in that encoding, or a line has
            more cells than the first.
    """
    import pandas as pd

    multiple = len(separator) > 1
    with warnings.catch_warnings(), open_bytes(path) as handle:
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(
                handle,
                sep=re.escape(separator) if multiple else separator,
                engine="python" if multiple else "c",
                header=0 if header else None,
                dtype=str,
                keep_default_na=False,
                na_filter=False,
                index_col=False,
                skipinitialspace=True,
                quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
                encoding=_with_mark(encoding),
            ).fillna("")
        except pd.errors.EmptyDataError as error:
            raise DataError(f"{path}: the file is empty; expected interactions") from error
        except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
            reason = " ".join(str(error).split()).rpartition("C error: ")[2]
            raise DataError(
                f"{path}: {reason}; is the separator {separator!r} right? Set data.separator"
            ) from error
        except (UnicodeError, LookupError) as error:
            raise DataError(f"{path}: {error}; set data.encoding, such as latin-1") from error
        except (OSError, EOFError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error


def line_of_row(path: Path, row: int, *, separator: str, header: bool, encoding: str) -> int:
    """The line, counted from 1, of a row of `read_table`: blank lines are no rows."""
    found = -1 if header else 0
    number = 0
    blank = "\r\n" if separator.isspace() else " \r\n"
    with (
        open_bytes(path) as handle,
        io.TextIOWrapper(handle, _with_mark(encoding), errors="replace") as text,
    ):
        for number, line in enumerate(text, start=1):
            if line.strip(blank):
                if found == row:
                    return number
                found += 1
    return number


def _with_mark(encoding: str) -> str:
    """The encoding that skips the byte-order mark which spreadsheets write."""
    return "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
