"""Text files as tables: one interaction in a line, or one user and its items.

pandas reads the cells. Where something is wrong, or cells may be quoted, Python's ``csv`` reads
the same text strictly, and knows the lines.
"""

from __future__ import annotations

import csv
import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedrec.data.problems import Problems
from fedrec.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TextTable", "read_lists", "split_cells"]

UNIT = "\x1f"
"""Stands for a separator that is no single ASCII character."""
UNQUOTED = "if quote marks belong to the cells, set data.quoted: false"


class _Lines(NamedTuple):
    """What the strict reading of a text has found.

    Args:
        numbers: the line of each row, counted from 1; the header is a row.
        breaks: line and column of each cell that holds a line break.
        wide: line and number of cells of each row that has too many; these are no rows.
        fault: what ended the reading early, or "".
    """

    numbers: list[int]
    breaks: list[tuple[int, int]]
    wide: list[tuple[int, int]]
    fault: str


class TextTable:
    """The cells of a text: one row for each line that is not blank.

    Args:
        source: The file, for errors.
        text: UTF-8, as from `fedrec.data.rawfile.utf8_of`.
        separator: One or more characters between cells, taken literally; a space stands for one
            or more spaces.
        header: Whether the first line names the columns; otherwise they are numbered from 0.
        quoted: Whether a cell may stand in double quotes.
    """

    def __init__(
        self, source: str, text: bytes, *, separator: str, header: bool, quoted: bool
    ) -> None:
        self.separator, self.header = separator, header
        self.quoted = quoted and b'"' in text
        self.text, self.delimiter = split_cells(source, text, separator)
        self.problems = Problems(source, self.where)
        try:
            cells = next((cells for _, cells in self._rows()), [""])
        except csv.Error as error:
            raise DataError(f"{source}: {error}") from error
        self.first = [each.strip() for each in cells]
        self.labels: list[Any] = self.first if header else list(range(len(cells)))

    def read(self, used: Iterable[int]) -> pd.DataFrame:
        """Read all cells as text; columns are numbered.

        Lines that are no rows are added to ``problems``.

        Args:
            used: Columns in which a line break is a problem.

        Raises:
            DataError: If nothing can be read.
        """
        import pandas as pd

        checked = self.quoted
        if checked:
            self._check(set(used))
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            for bad_lines in ("error", "skip"):
                try:
                    frame = pd.read_csv(
                        io.BytesIO(self.text),
                        sep=self.delimiter,
                        header=0 if self.header else None,
                        dtype=str,
                        keep_default_na=False,
                        na_filter=False,
                        index_col=False,
                        skipinitialspace=True,
                        quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
                        on_bad_lines=bad_lines,
                    )
                    break
                except (ValueError, pd.errors.ParserWarning, OverflowError) as error:
                    if not checked:
                        self._check(set(used))
                    checked, reason = True, " ".join(str(error).split())
            else:
                self.problems.raise_if_any()
                raise DataError(f"{self.problems.source}: {reason}; set data.separator")
        frame.columns = range(frame.shape[1])  # type: ignore[assignment]
        if self.quoted and self.delimiter == UNIT:
            frame = frame.apply(lambda cells: cells.str.replace(UNIT, self.separator, regex=False))
        return frame

    def where(self, row: int) -> str:
        """Name the line of a row, counted from 0."""
        at = row + int(self.header)
        numbers = self._lines.numbers
        return f"line {numbers[at]}" if at < len(numbers) else f"row {row + 1}"

    def _check(self, used: set[int]) -> None:
        lines, width = self._lines, len(self.labels)
        self.problems.add(
            f"line {line}: has {count} cells, expected {width}; is the separator "
            f"{self.separator!r} right? Set data.separator"
            for line, count in lines.wide
        )
        self.problems.add(
            f"line {line}, column '{self.labels[column]}': holds a line break; expected one line; "
            f"{UNQUOTED}"
            for line, column in lines.breaks
            if column in used
        )
        if lines.fault:
            self.problems.add([lines.fault])
            self.problems.raise_if_any()
        if lines.breaks and {column for _, column in lines.breaks}.isdisjoint(used):
            logging.getLogger("fedrec.data").warning(
                f"{self.problems.source}: {len(lines.breaks):,} cells hold a line break, the first "
                f"in line {lines.breaks[0][0]}; {UNQUOTED}"
            )

    @cached_property
    def _lines(self) -> _Lines:
        found = _Lines([], [], [], "")
        try:
            for line, cells in self._rows():
                if len(cells) > len(self.labels):
                    found.wide.append((line, len(cells)))
                    continue
                found.numbers.append(line)
                if self.quoted:
                    found.breaks.extend(
                        (line, at) for at, cell in enumerate(cells) if "\n" in cell or "\r" in cell
                    )
        except csv.Error as error:
            return found._replace(fault=str(error))
        return found

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the first line and the cells of each row that is not blank."""
        with io.TextIOWrapper(io.BytesIO(self.text), "utf-8", newline="") as text:
            reader = csv.reader(
                text,
                delimiter=self.delimiter,
                skipinitialspace=True,
                strict=True,
                quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            )
            line = 1
            try:
                for cells in reader:
                    if len(cells) > 1 or (cells and cells[0].strip()):
                        yield line, cells
                    line = reader.line_num + 1
            except csv.Error as error:
                fault = (
                    f"has a cell of more than {csv.field_size_limit():,} characters"
                    if "limit" in str(error)
                    else "a quote mark opens a cell, but none closes it at its end"
                )
                raise csv.Error(f"line {line}: {fault}; {UNQUOTED}") from error


def split_cells(source: str, text: bytes, separator: str) -> tuple[bytes, str]:
    """Give a text a separator of one ASCII character.

    Args:
        source: The file, for errors.
        text: UTF-8.
        separator: See `TextTable`.

    Raises:
        DataError: If the text holds the character that would replace the separator.
    """
    if len(separator) == 1 and separator.isascii() and separator != " ":
        return text, separator
    if UNIT.encode() in text:
        raise DataError(f"{source}: holds the control character 0x1f; set another data.separator")
    if separator.strip(" "):
        return text.replace(separator.encode(), UNIT.encode()), UNIT
    text = re.sub(rb"(?m)^ +| +(?=\r?$)", b"", text)
    return re.sub(rb" {%d,}" % len(separator), UNIT.encode(), text), UNIT


def read_lists(
    source: str, text: bytes, separator: str | None, *, ordered: bool
) -> tuple[pd.DataFrame, Problems]:
    """Read one user and its items from each line.

    Args:
        source: The file, for errors.
        text: UTF-8.
        separator: Between ids; None for any white space.
        ordered: Whether the order of a user's items is their order in time.

    Returns:
        Columns 0 (user), 1 (item) and, if ordered, 2 (a user's items counted from 0).
    """
    import pandas as pd

    lines = re.split(r"\r\n|\r|\n", text.decode())
    cells = [line.strip().split(separator) if line.strip() else [] for line in lines]
    lengths = np.array([max(len(each) - 1, 0) for each in cells], np.int64)
    alone = sum(len(each) == 1 for each in cells)
    if alone:
        logging.getLogger("fedrec.data").warning(
            f"{source}: {alone:,} users have no items and are left out"
        )
    numbers = np.repeat(np.arange(1, len(lines) + 1), lengths)
    users = pd.Series([each[0] if each else "" for each in cells], dtype="category")
    items = pd.Series(list(chain.from_iterable(each[1:] for each in cells)), dtype="category")
    frame = pd.DataFrame({0: users.array.repeat(lengths), 1: items.array})
    if ordered:
        frame[2] = frame.groupby(0, observed=True).cumcount()
    return frame, Problems(source, lambda row: f"line {numbers[row]}")
