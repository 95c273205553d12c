"""What a file of its own says about the items: titles, genres, descriptions."""

import logging
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from fedrec.data.base import DataProblems
from fedrec.data.columns import READERS, SHOWN, Table
from fedrec.data.parquetfile import parquet_table
from fedrec.data.textfile import separator_of, text_of, text_table, unpacked_name
from fedrec.errors import DataError, did_you_mean
from fedrec.plugins import Section
from fedrec.types import IntArray, TextArray

Separator = Annotated[str, Field(min_length=1), AfterValidator(separator_of)]

_log = logging.getLogger("fedrec.data")


class ItemFile(Section):
    """A table with a row for each item: text, RecBole's ``.item``, or Parquet.

    Ids are matched as raw text, see `fedrec.data.ids`. In a header such as ``title:token_seq`` the
    type is left out of the name.

    Args:
        path: the file, which may be packed; relative paths start at the working folder.
        id: the column of the raw ids; None: the first.
        names: of the columns, where the first line does not name them.
        separator: between the cells; None: a tab where the first line has one, else a comma.
        quoted: whether a cell in double quotes may hold separators; None: if that is a comma.
        encoding: of the text.
    """

    path: Path
    id: str | None = None
    names: tuple[str, ...] = ()
    separator: Separator | None = None
    quoted: bool | None = None
    encoding: str = "utf-8"

    def columns(self, ids: TextArray) -> dict[str, TextArray]:
        """Read the columns of some items.

        Args:
            ids: text [n], raw ids.

        Returns:
            Each column but the id's, text [n]; empty for an item without a row, or without a cell.

        Raises:
            DataError: If the file is missing or damaged, a column is not there, a raw id is empty
                or stands in two rows, or no item has a row.
        """
        return item_columns(self._table(), self.id, ids)

    def ids(self) -> list[str]:
        """Return the raw id of each row.

        Raises:
            DataError: As `columns`.
        """
        table = self._table()
        return list(_rows(table, *table.cells([_place(table, self.id)])[0]))

    def _table(self) -> Table:
        if unpacked_name(self.path).suffix == ".parquet":
            return parquet_table(self.path)
        text = text_of(self.path, self.encoding)
        separator = self.separator or ("\t" if "\t" in text.partition("\n")[0] else ",")
        quoted = separator == "," if self.quoted is None else self.quoted
        table = text_table(
            str(self.path), text, separator=separator, header=not self.names, quoted=quoted
        )
        if self.names and len(self.names) != len(table.labels):
            raise DataError(
                f"{self.path}: has {len(table.labels)} columns, data.items.names has "
                f"{len(self.names)}; name each, or set data.items.separator"
            )
        labels = self.names or table.labels
        is_typed = all(":" in label for label in labels)
        table.labels = [each.partition(":")[0] if is_typed else each for each in labels]
        return table


def item_columns(table: Table, id_column: str | None, ids: TextArray) -> dict[str, TextArray]:
    """Return the columns of a table for some items; see `ItemFile.columns`.

    Args:
        table: One row for each item.
        id_column: Holds the raw ids; None: the first.
        ids: text [n], raw ids.
    """
    source, labels = table.source, [str(label) for label in table.labels]
    wanted = labels[_place(table, id_column)]
    cells = dict(zip(labels, table.cells(range(len(labels))), strict=True))
    rows = _rows(table, *cells.pop(wanted))
    at = np.array([rows.get(each, -1) for each in ids.tolist()], np.int64)
    absent = int((at < 0).sum())
    if absent == len(at):
        raise DataError(
            f"{source}: none of its ids, such as '{next(iter(rows), '')}', is one of the "
            f"interactions, such as '{ids[0]}'; set data.items.id to the column of the raw ids"
        )
    if absent:
        _log.warning(f"{source}: {absent:,} of {len(at):,} items have no row; they have no text")
    columns = {}
    for label, (codes, values) in cells.items():
        texts = np.array([*map(_text, values), ""], object)
        columns[label] = texts[np.where(at < 0, -1, codes[at])]
    return columns


def _place(table: Table, id_column: str | None) -> int:
    """Return the place of the column of raw ids."""
    source, labels = table.source, [str(label) for label in table.labels]
    wanted = labels[0] if id_column is None else id_column
    for label, count in Counter(labels).items():
        if count > 1:
            raise DataError(f"{source}: two columns are named '{label}'; rename one")
    if wanted not in labels:
        near = did_you_mean(wanted, labels)
        raise DataError(f"{source}: no column '{wanted}'{near}; set data.items.id")
    return labels.index(wanted)


def _rows(table: Table, codes: IntArray, values: Any) -> dict[str, int]:
    """Return the row of each raw id."""
    expected, read = READERS["item"]
    ids, faults = read(values, expected)
    faults[-1] = f"is empty, {expected}"
    rows, lines = dict[str, int](), [each for some in table.problems.values() for each in some]
    for row, code in enumerate(codes.tolist()):
        if code in faults:
            lines.append(f"{table.where(row)}, column of ids: {faults[code]}")
        elif (first := rows.setdefault(ids[code], row)) != row:
            lines.append(
                f"{table.where(row)}: id '{ids[code]}' stands in {table.where(first)} already; "
                "remove one of them"
            )
    if lines:
        more = [f"{len(lines) - SHOWN:,} more such lines"] * (len(lines) > SHOWN)
        raise DataProblems(f"{table.source}: {line}" for line in lines[:SHOWN] + more)
    return rows


def _text(value: Any) -> str:
    """Return a cell as text; the values of a list are joined by ``|``."""
    several = isinstance(value, list | tuple | np.ndarray)
    return "|".join(map(str, value)) if several else str(value).strip()
