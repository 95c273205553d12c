"""From a table to interactions: one reader of ids and one of numbers, for every format.

A cell is missing if it is null, NaN, NaT or white space: an error. A number is finite and exact.
"""

from __future__ import annotations

import datetime
import decimal
import re
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedrec.data.ids import index_ids
from fedrec.data.problems import Problems
from fedrec.errors import DataError, did_you_mean
from fedrec.plugins import Section
from fedrec.types import FloatArray, IntArray, Interactions

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Columns", "interactions_of", "places_of"]

MAX_ID = 256
EXACT = 2**53
"""Whole numbers up to here are exact as float64."""
A_DATE = "a number or a date such as 2024-05-01"
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
WHOLE = re.compile(r"([+-]?\d+)(\.0+)?", re.ASCII)
UNFIT = re.compile("[\0\r\n\ud800-\udfff]")
ID_TYPES = (str, bool, int, float, np.bool_, np.number, decimal.Decimal, uuid.UUID)


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
        """Map what is there to its column: ``user``, ``item``, ``rating``, ``timestamp``."""
        given: dict[str, str | int] = self.model_dump(exclude_none=True)
        return given


def places_of(
    columns: Columns, labels: Sequence[object], source: str, way_out: str = "set data.columns.{}"
) -> dict[str, int]:
    """Find the columns of a table.

    Args:
        columns: Which are wanted.
        labels: The table's, in their order.
        source: The file, for errors.
        way_out: What to do about a column that is not there.

    Returns:
        The place of each, from 0, by what it holds.

    Raises:
        DataError: If one is not there, two have its name, or it is named for two purposes.
    """
    places: dict[str, int] = {}
    for field, label in columns.named().items():
        if list(labels).count(label) > 1:
            raise DataError(f"{source}: two columns are named '{label}'; rename one of them")
        if label not in labels:
            near = did_you_mean(str(label), [str(each)[:40] for each in labels[:20]])
            raise DataError(f"{source}: no column '{label}'{near}; {way_out.format(field)}")
        at = list(labels).index(label)
        for other, place in places.items():
            if place == at:
                raise DataError(
                    f"{source}: column '{label}' is data.columns.{other} and "
                    f"data.columns.{field}; expected one purpose for each column"
                )
        places[field] = at
    return places


def interactions_of(
    frame: pd.DataFrame,
    labels: Sequence[object],
    places: dict[str, int],
    problems: Problems,
    name: str,
) -> Interactions:
    """Read the interactions of a table.

    Args:
        frame: One row per interaction.
        labels: The names of its columns.
        places: As from `places_of`.
        problems: What is wrong with the table so far.
        name: What the data set is called in tables.

    Raises:
        DataProblems: If there are no rows, or a cell is missing, not of the expected kind, or
            not exact; all problems together.
    """
    if len(frame) == 0:
        problems.add(["no interactions; expected at least one row"])
        problems.raise_if_any()
    series = {field: frame.iloc[:, at] for field, at in places.items()}
    codes, texts, numbers = {}, {}, {}
    refused = frozenset(problems.rows)
    for field, column in series.items():
        label = labels[places[field]]
        if field in ("user", "item"):
            codes[field], texts[field], reasons = _ids(column)
        else:
            numbers[field], reasons = _numbers(column, time=field == "timestamp")
        problems.add_cells(
            label, {row: reason for row, reason in reasons.items() if row not in refused}
        )

    def of_rows(rows: NDArray[np.bool_]) -> Interactions:
        users, user_ids = index_ids(codes["user"][rows], texts["user"])
        items, item_ids = index_ids(codes["item"][rows], texts["item"])
        return Interactions(
            users=users,
            items=items,
            ratings=numbers["rating"][rows] if "rating" in numbers else None,
            timestamps=numbers["timestamp"][rows] if "timestamp" in numbers else None,
            user_ids=user_ids,
            item_ids=item_ids,
            name=name,
        )

    good = np.ones(len(frame), np.bool_)
    good[list(problems.rows)] = False
    problems.raise_if_any(lambda: of_rows(good) if good.any() else None)
    return of_rows(good)


def _values(column: pd.Series[Any]) -> tuple[IntArray, list[Any]]:
    """Return int64 [n], the index of each cell in a list of values, -1 where it is missing.

    Cells of type object are all listed: equal ones may differ in type (1, 1.0, True).
    """
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, categories = column.cat.codes.to_numpy(np.int64), column.cat.categories
        used = np.unique(codes[codes >= 0])
        place = np.full(len(categories) + 1, -1, np.int64)
        place[used] = np.arange(len(used))
        return place[codes], categories.take(used).tolist()
    if column.dtype != object:
        try:
            codes, unique = column.factorize()
            return codes.astype(np.int64), unique.tolist()
        except (TypeError, ValueError, NotImplementedError):  # lists and structures of Arrow
            column = column.astype(object)
    missing = column.isna().to_numpy(np.bool_)
    return np.where(missing, -1, np.arange(len(column))), column.tolist()


def _ids(column: pd.Series[Any]) -> tuple[IntArray, NDArray[np.object_], dict[int, str]]:
    """Return the index of each row's id, the ids, and what is wrong by row."""
    import pandas as pd

    if column.dtype.kind in "Mmc":
        column = column.astype(object)
    codes, values = _values(column)
    faults: dict[int, str] = {}
    texts: list[str] = []
    for at, value in enumerate(values):
        text, fault = _id_text(value)
        texts.append(text)
        if fault:
            faults[at] = fault
    good = [text for at, text in enumerate(texts) if at not in faults]
    if any(".0" in text for text in good) and all(map(WHOLE.fullmatch, good)):
        texts = [text if at in faults else text.partition(".")[0] for at, text in enumerate(texts)]
    reasons = _by_row(codes, faults, "is empty, expected an id")
    again, ids = pd.factorize(np.array(texts or [""], object))
    return np.where(codes < 0, -1, again[codes]).astype(np.int64), ids, reasons


def _id_text(value: Any) -> tuple[str, str]:
    """Return the raw id, and what is wrong with it or ""."""
    if not isinstance(value, ID_TYPES) or isinstance(value, complex | np.complexfloating):
        if _is_null(value):
            return "", "is empty, expected an id"
        return "", f"expected text or a whole number, got {_short(value)}"
    if isinstance(value, float | np.floating):
        number = float(value)
        if number != number:
            return "", "is empty, expected an id"
        if np.isinf(number):
            return "", f"expected an id, got {number}"
        if abs(number) >= EXACT:
            return "", (
                f"expected an id that is exact, got {number!r}, a float; read the column as whole "
                "numbers or as text"
            )
        return repr(number), ""
    text = str(value).strip()
    if not text:
        return "", "is empty, expected an id"
    if len(text) > MAX_ID:
        return "", f"expected an id of at most {MAX_ID} characters, got {len(text):,}"
    if UNFIT.search(text):
        return "", f"expected an id in one line of text, got {_short(text)}"
    return text, ""


def _numbers(column: pd.Series[Any], *, time: bool) -> tuple[FloatArray, dict[int, str]]:
    """Return float64 [n], and what is wrong by row."""
    expected = A_DATE if time else "a number"
    empty = f"is empty, expected {expected}"
    kind = column.dtype.kind
    if kind == "M" and time:
        return _seconds(column, empty)
    if kind in "iuf":
        numbers = column.to_numpy(np.float64, na_value=np.nan)
        doubtful = ~np.isfinite(numbers) | ((kind in "iu") & (np.abs(numbers) >= EXACT))
        checked = {row: _number(column.iloc[row], expected) for row in np.flatnonzero(doubtful)}
        return numbers, {int(row): fault for row, (_, fault) in checked.items() if fault}
    codes, values = _values(column.astype(object) if kind in "Mmc" else column)
    numbers = np.zeros(len(values) + 1)
    faults: dict[int, str] = {}
    for at, value in enumerate(values):
        numbers[at], fault = _number(value, expected)
        if fault:
            faults[at] = fault
    first = int(codes[codes >= 0][0]) if (codes >= 0).any() else -1
    if time and first in faults and "got" in faults[first]:
        dates, date_faults = _dates(values)
        if first not in date_faults:
            numbers[:-1], faults = dates, date_faults
    reasons = _by_row(codes, faults, empty)
    return numbers[codes], reasons


def _number(value: Any, expected: str) -> tuple[float, str]:
    """Return a number, and what is wrong with it or ""."""
    if type(value) is str and value.isascii() and value.isdigit() and len(value) <= 15:
        return float(value), ""
    if isinstance(value, bool | np.bool_) or not isinstance(
        value, str | int | float | np.integer | np.floating | decimal.Decimal
    ):
        if _is_null(value):
            return 0.0, f"is empty, expected {expected}"
        return 0.0, f"expected {expected}, got {_short(value)}"
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return 0.0, f"is empty, expected {expected}"
        if NOT_FINITE.fullmatch(text):
            return 0.0, f"expected a finite number, got '{text}'"
        if not NUMBER.fullmatch(text):
            return 0.0, f"expected {expected}, got {_short(text)}"
        value = int(text) if len(text) > 15 and text.lstrip("+-").isdecimal() else float(text)
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if not np.isfinite(number):
        if number != number:
            return 0.0, f"is empty, expected {expected}"
        return 0.0, f"expected a finite number, got '{_short(value)[:40]}'"
    if isinstance(value, int | np.integer) and int(number) != int(value):
        return 0.0, (
            f"expected a number that a float64 holds exactly, got {value}; divide the column, or "
            "give dates"
        )
    return number, ""


def _dates(values: list[Any]) -> tuple[FloatArray, dict[int, str]]:
    import pandas as pd

    texts = [
        each.isoformat()
        if isinstance(each, datetime.date) and not pd.isna(each)
        else str(each) * isinstance(each, str | np.datetime64)
        for each in values
    ]
    dates = pd.to_datetime(pd.Series(texts), errors="coerce", format="ISO8601", utc=True)
    numbers, faults = _seconds(dates, "")
    return numbers, {
        at: fault or f"expected {A_DATE}, got {_short(values[at])}" for at, fault in faults.items()
    }


def _seconds(dates: pd.Series[Any], empty: str) -> tuple[FloatArray, dict[int, str]]:
    """Return float64 [n], seconds since 1970 in UTC, exact to the microsecond."""
    missing = dates.isna().to_numpy(np.bool_)
    if str(dates.dtype).startswith(("date32", "date64")):  # of Arrow
        dates = dates.astype("datetime64[s]")
    if getattr(dates.dt, "tz", None) is not None:
        dates = dates.dt.tz_convert(None)
    times = dates.to_numpy()
    if times.dtype.kind != "M":
        times = times.astype("datetime64[us]")
    unit = np.datetime_data(times.dtype)[0]
    ticks = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    whole, rest = np.divmod(np.where(missing, 0, times.astype(np.int64)), ticks)
    fine = (rest * 10**6 % ticks != 0) | ((rest != 0) & (np.abs(whole) > 2**33))
    reasons = dict.fromkeys(np.flatnonzero(missing).tolist(), empty)
    for row in np.flatnonzero(fine & ~missing).tolist():
        reasons[row] = f"expected a time in whole microseconds, got '{times[row]}'; round it"
    return np.asarray(whole + rest / ticks, np.float64), reasons


def _by_row(codes: IntArray, faults: dict[int, str], empty: str) -> dict[int, str]:
    reasons = dict.fromkeys(np.flatnonzero(codes < 0).tolist(), empty)
    if faults:
        rows = np.flatnonzero(np.isin(codes, list(faults)))
        reasons |= {int(row): faults[int(codes[row])] for row in rows}
    return reasons


def _is_null(value: Any) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _short(value: Any) -> str:
    text = f"'{value}'" if isinstance(value, str) else repr(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    text = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text[:60])
    return text if len(text) < 60 else f"{text}…"
