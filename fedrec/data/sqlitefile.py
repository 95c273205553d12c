"""Tables of SQLite databases, which an app may be writing to."""

import sqlite3
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.data.columns import Cells, Table
from fedrec.errors import DataError, did_you_mean

BUSY_SECONDS = 10.0
"""How long a writer that holds the database is waited for."""


def sqlite_table(path: Path, table: str, wanted: Collection[str]) -> Table:
    """Return the cells of a table of a database, as they are at one moment.

    The database is opened read-only. All rows are read by one statement, which SQLite isolates
    from what other processes write meanwhile.

    Args:
        path: The file.
        table: The table, or a view.
        wanted: The columns that are read, if they are there.

    Raises:
        DataError: If the file is missing, no database or stays locked, or has no such table.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        address = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, timeout=BUSY_SECONDS, uri=True)) as database:
            tables = database.execute("SELECT name FROM sqlite_schema WHERE type IN (?, ?)", _KINDS)
            names = sorted(name for (name,) in tables)
            if table not in names:
                near = did_you_mean(table, names) or " (it has none)"
                raise DataError(f"{path}: no table '{table}'{near}; set data.table")
            about = database.execute("SELECT name FROM pragma_table_info(?)", (table,))
            labels = [name for (name,) in about]
            columns = [name for name in labels if name in wanted] or labels[:1]
            chosen = ", ".join(map(_quoted, columns))
            rows = database.execute(f"SELECT {chosen} FROM {_quoted(table)}").fetchall()
    except sqlite3.Error as error:
        raise DataError(
            f"{path}: not a readable SQLite database: {error}; for text set data.name: csv"
        ) from error
    by_column = dict(zip(columns, zip(*rows, strict=True), strict=False))

    def cells(places: Sequence[int]) -> list[Cells]:
        return [_cells(by_column.get(labels[place], ())) for place in places]

    return Table(source=f"{path}: table {table}", labels=labels, cells=cells)


_KINDS = ("table", "view")


def _cells(column: Sequence[Any]) -> Cells:
    present = np.array([value is not None for value in column], np.bool_)
    values = np.empty(int(present.sum()), object)
    values[:] = [value for value in column if value is not None]
    return np.where(present, np.cumsum(present) - 1, -1), values


def _quoted(name: str) -> str:
    """Return a name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'
