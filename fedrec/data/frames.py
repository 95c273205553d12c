"""From a table of text or numbers to interactions, with an error for every bad cell."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedrec.data.ids import index_ids
from fedrec.errors import DataError, did_you_mean
from fedrec.plugins import Section
from fedrec.types import FloatArray, Interactions

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Columns", "Where", "content_hash", "interactions_from_frame", "missing_column"]

Where = Callable[[int], str]
"""From a row, counted from 0, to how the user finds it: ``ratings.csv, line 3``."""


class Columns(Section):
    """Which column holds what: by its name, or by its number from 0 in a file without header.

    Args:
        user: the user's raw id.
        item: the item's raw id.
        rating: a number; None: there is none, or it is not wanted.
        timestamp: a number in any unit, or a date such as 2024-05-01T12:00; None: there is none.
    """

    user: str | int = "user"
    item: str | int = "item"
    rating: str | int | None = None
    timestamp: str | int | None = None

    def named(self) -> dict[str, str | int]:
        """The columns that are there: what it holds → its name or number."""
        given: dict[str, str | int] = self.model_dump(exclude_none=True)
        return given


def interactions_from_frame(
    frame: pd.DataFrame, columns: Columns, *, name: str, source: str, where: Where
) -> Interactions:
    """The one road from a data frame to interactions.

    Args:
        frame: One row per interaction.
        columns: Which column holds what.
        name: What the data set is called in tables.
        source: The file, or what else the rows come from, for errors.
        where: How the user finds a row.

    Raises:
        DataError: If there are no rows, a column is missing, or a cell is missing, not a number
            or not finite.
    """
    for part, column in columns.named().items():
        if column not in frame.columns:
            raise missing_column(source, part, column, frame.columns)
    if len(frame) == 0:
        raise DataError(f"{source}: no interactions; expected at least one row")
    users, user_ids = index_ids(_ids(frame[columns.user], where))
    items, item_ids = index_ids(_ids(frame[columns.item], where))
    rating, timestamp = columns.rating, columns.timestamp
    return Interactions(
        users=users,
        items=items,
        ratings=None if rating is None else _numbers(frame[rating], where, "rating"),
        timestamps=None if timestamp is None else _numbers(frame[timestamp], where, "time"),
        user_ids=user_ids,
        item_ids=item_ids,
        name=name,
    )


def missing_column(source: str, part: str, column: str | int, known: Iterable[object]) -> DataError:
    """The error for a column that is not there, with the nearest that is."""
    if isinstance(column, int):
        return DataError(
            f"{source}: no column number {column} (data.columns.{part}; numbers count from 0, "
            f"there are {len(list(known))} columns)"
        )
    names = [str(each) for each in known]
    way_out = f"set data.columns.{part}" + (", or data.separator" if len(names) == 1 else "")
    return DataError(f"{source}: no column '{column}'{did_you_mean(column, names)}; {way_out}")


def content_hash(frame: pd.DataFrame) -> str:
    """sha256 of the names and cells of a data frame, whatever its index."""
    import pandas as pd

    digest = hashlib.sha256(repr([str(column) for column in frame.columns]).encode())
    for column in frame.columns:
        hashes = pd.util.hash_pandas_object(frame[column], index=False, categorize=True)
        digest.update(hashes.to_numpy(np.uint64).tobytes())
    return digest.hexdigest()


def _ids(column: pd.Series[Any], where: Where) -> NDArray[Any]:
    """The cells as whole numbers or text."""
    empty = column.isna().to_numpy(bool)
    if not empty.any() and column.dtype.kind in "iu":
        return column.to_numpy()
    if not empty.any() and column.dtype.kind == "f":
        values = column.to_numpy(np.float64)
        if bool((values == np.rint(values)).all()) and bool((np.abs(values) < 2**53).all()):
            return values.astype(np.int64)
    text = column.astype(str).str.strip()
    empty = empty | (text == "").to_numpy(bool)
    if empty.any():
        raise DataError(f"{_cell(where, empty, column)}: is empty, expected an id")
    return text.to_numpy(np.str_)


def _numbers(column: pd.Series[Any], where: Where, kind: Literal["rating", "time"]) -> FloatArray:
    """float64 [n], all finite."""
    import pandas as pd

    if column.dtype.kind == "M" and not column.isna().any():
        return _seconds(column)
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    bad = ~np.isfinite(values)
    if kind == "time" and np.isnan(values[0]) and str(column.iloc[0]):
        dates = pd.to_datetime(column, errors="coerce", format="ISO8601", utc=True)
        if not dates.isna().any():
            return _seconds(dates)
        bad = dates.isna().to_numpy(bool) if not pd.isna(dates.iloc[0]) else bad
    if not bad.any():
        return values
    cell = column.iloc[int(np.flatnonzero(bad)[0])]
    label = _cell(where, bad, column)
    expected = "a number" if kind == "rating" else "a number or a date such as 2024-05-01"
    if pd.isna(cell) or not str(cell).strip():
        raise DataError(f"{label}: is empty, expected {expected}")
    try:
        float(cell)
    except (TypeError, ValueError):
        raise DataError(f"{label}: expected {expected}, got '{cell}'") from None
    raise DataError(f"{label}: expected a finite number, got '{cell}'")


def _seconds(dates: pd.Series[Any]) -> FloatArray:
    naive = dates.dt.tz_convert(None) if dates.dt.tz is not None else dates
    return naive.to_numpy("datetime64[us]").astype(np.int64) / 1e6


def _cell(where: Where, bad: NDArray[np.bool_], column: pd.Series[Any]) -> str:
    return f"{where(int(np.flatnonzero(bad)[0]))}, column '{column.name}'"
