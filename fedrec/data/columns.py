"""From the cells of a table to interactions: one reader of ids and one of numbers, for all formats.

A cell is missing if it is null, NaN, NaT or white space: an error. A number is finite and exact.
"""

import datetime
import decimal
import re
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fedrec.data.base import DataProblems
from fedrec.data.ids import index_ids
from fedrec.errors import DataError, did_you_mean, require
from fedrec.plugins import Section, shown
from fedrec.types import FloatArray, IntArray, Interactions

if TYPE_CHECKING:
    import pandas as pd

# A column: int64 [n], the index of each row's value, -1 where it is missing; and the values.
Cells: TypeAlias = tuple[IntArray, Any]
Faults: TypeAlias = dict[int, str]  # what is wrong with a value, by its index

SHOWN = 3  # rows that are named for each kind of problem; the others are counted
EXACT = 2**53  # whole numbers up to here are exact as float64
MAX_NUMBER = 1e308
DATE = re.compile(r"\d{4}\D", re.ASCII)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
WHOLE = re.compile(r"[+-]?\d+(\.0+)?", re.ASCII)
UNFIT = re.compile("[\0\r\n\ud800-\udfff]")
ID_TYPES = (str, bool, int, float, decimal.Decimal, uuid.UUID)
NUMBER_TYPES = (int, float, decimal.Decimal)


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

    def named(self) -> dict[str, str]:
        """Map what is there to its column: ``user``, ``item``, ``rating``, ``timestamp``."""
        return {purpose: str(name) for purpose, name in self.model_dump(exclude_none=True).items()}


@dataclass(kw_only=True)
class Table:
    """Rows of interactions, one column for each thing that they hold.

    Args:
        source: The file, or what else the rows come from.
        labels: The names of the columns, or their numbers from 0.
        cells: Reads the columns at some places, from 0.
        where: From a row, counted from 0, to how the user finds it.
        way_out: What to do about a column that is not there; ``{}`` stands for what it holds.
        problems: Of lines that are no rows, by their kind; known once the cells are read.
    """

    source: str
    labels: Sequence[Any]
    cells: Callable[[Sequence[int]], list[Cells]]
    where: Callable[[int], str] = lambda row: f"row {row + 1}"
    way_out: str = "set data.columns.{}"
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def places(self, columns: Columns) -> dict[str, int]:
        """Return the place of each wanted column, by what it holds.

        Raises:
            DataError: If one is not there, two have its name, or it is named for two purposes.
        """
        names, labels = columns.named(), [str(label) for label in self.labels]
        for purpose, name in names.items():
            if labels.count(name) > 1:
                raise DataError(f"{self.source}: two columns are named '{name}'; rename one")
            if name not in labels:
                near = did_you_mean(name, [each[:40] for each in labels])
                way_out = self.way_out.format(purpose)
                raise DataError(f"{self.source}: no column '{name}'{near}; {way_out}")
        for one, other in combinations(names, 2):
            if names[one] == names[other]:
                raise DataError(
                    f"{self.source}: column '{names[one]}' is data.columns.{one} and "
                    f"data.columns.{other}; expected one purpose for each column"
                )
        return {purpose: labels.index(name) for purpose, name in names.items()}


def cells_of(column: "pd.Series[Any]") -> Cells:
    """Return the cells of a column of a data frame."""
    if column.dtype != object:
        with suppress(TypeError, ValueError, NotImplementedError):  # lists and structures of Arrow
            codes, values = column.factorize()
            is_half = column.dtype == np.float16  # an index has no such type
            return codes, np.asarray(values, np.float16) if is_half else values
    # Objects are listed one by one, as equal ones may differ in type: 1, 1.0, True.
    present = column.notna().to_numpy(np.bool_)
    return np.where(present, np.cumsum(present) - 1, -1), column[present].to_numpy()


def interactions_of(table: Table, columns: Columns, name: str) -> Interactions:
    """Read the interactions of a table.

    Args:
        table: The rows.
        columns: Which column holds what.
        name: Of the data set.

    Raises:
        DataError: If a column is not there.
        DataProblems: If there are no rows, or a cell is missing, not of the expected kind, or
            not exact; all problems together.
    """
    places, labels = table.places(columns), columns.named()
    cells = dict(zip(places, table.cells([*places.values()]), strict=True))
    kinds, values = defaultdict(list, table.problems), dict[str, Any]()
    is_good = np.ones(len(cells["user"][0]), np.bool_)
    for purpose, (codes, raw) in cells.items():
        expected, read = READERS[purpose]
        values[purpose], faults = read(raw, expected)
        faults[-1] = f"is empty, {expected}"
        is_bad = np.isin(codes, list(faults))
        is_good &= ~is_bad
        for row in np.flatnonzero(is_bad).tolist():
            fault = faults[int(codes[row])]
            text = f"{table.where(row)}, column '{labels[purpose]}': {fault}"
            kinds[f"{purpose} {fault.partition(', got')[0]}"].append(text)
    if not len(is_good) and not kinds:
        kinds["rows"] = ["no interactions; expected at least one row"]

    rest = None
    if is_good.any():
        at = {purpose: codes[is_good] for purpose, (codes, _) in cells.items()}
        users, user_ids = index_ids(at["user"], values["user"])
        items, item_ids = index_ids(at["item"], values["item"])
        rest = Interactions(
            users=users,
            items=items,
            ratings=values["rating"][at["rating"]] if "rating" in at else None,
            timestamps=values["timestamp"][at["timestamp"]] if "timestamp" in at else None,
            user_ids=user_ids,
            item_ids=item_ids,
            name=name,
        )
    lines = []
    for texts in kinds.values():
        more = f" (and {len(texts) - SHOWN:,} more such lines)" if len(texts) > SHOWN else ""
        lines += [f"{table.source}: {text}" for text in texts[:SHOWN]]
        lines[-1] += more
    if lines or rest is None:
        raise DataProblems(lines, rest)
    return rest


def _converted(
    values: Any, convert: Callable[[Any], Any], expected: str
) -> tuple[list[Any], Faults]:
    """Return what each value is converted to, None where it cannot be, and why it cannot.

    An error without a text says that the value is not what was expected.
    """
    results: list[Any] = []
    faults: Faults = {}
    for at, value in enumerate(values):
        result = None
        try:
            if isinstance(value, np.number | np.bool_):
                value = value.item()
            elif isinstance(value, str) and not (value := value.strip()):
                raise ValueError(f"is empty, {expected}")
            result = convert(value)
        except ValueError as fault:
            faults[at] = str(fault) or f"{expected}, got {shown(value)}"
        results.append(result)
    return results, faults


def _ids(values: Any, expected: str) -> tuple[list[str | None], Faults]:
    """Return raw ids. Where all are whole numbers, ``7.0`` is ``7``."""
    texts, faults = _converted(values, _id, expected)
    faults |= _rounded(values)
    good = list(filter(None, texts))
    if any(".0" in text for text in good) and all(map(WHOLE.fullmatch, good)):
        texts = [text and text.partition(".")[0] for text in texts]
    return texts, faults


def _id(value: Any) -> str:
    if isinstance(value, float) and not abs(value) < EXACT:
        raise ValueError(
            f"expected an id that is exact, got {value!r}, a float; read the column as whole "
            "numbers or as text"
        )
    if not isinstance(value, ID_TYPES):
        raise ValueError(f"expected text or a whole number, got {shown(value)}")
    text = str(value)
    unfit = UNFIT.search(text)
    if unfit:
        way_out = "is the file damaged, or its encoding another?"
        if unfit[0] in "\r\n":
            way_out = "in a csv file whose cells hold quote marks, set data.quoted: false"
        raise ValueError(f"expected an id in one line of text, got {shown(text)}; {way_out}")
    return text


def _numbers(values: Any, expected: str) -> tuple[FloatArray, Faults]:
    if getattr(values, "dtype", np.dtype(object)).kind in "iuf":  # of a data frame: all at once
        array = np.asarray(values, np.float64)
        if (np.abs(array) < EXACT).all():
            return array, {}
    numbers, faults = _converted(values, _number, expected)
    return np.array(numbers, np.float64), faults


def _number(value: Any) -> float:
    if isinstance(value, str) and len(value) < 400:
        if value.isascii() and value.isdigit():
            value = int(value)
        elif NUMBER.fullmatch(value):
            value = int(value) if value[1:].isdigit() else float(value)
    is_number = isinstance(value, NUMBER_TYPES) and not isinstance(value, bool)
    if not is_number or not abs(value) < MAX_NUMBER:
        raise ValueError
    if isinstance(value, int) and int(float(value)) != value:
        raise ValueError(
            f"expected a number that a float64 holds exactly, got {value}; divide the column, or "
            "give dates"
        )
    return float(value)


def _times(values: Any, expected: str) -> tuple[FloatArray, Faults]:
    """Return float64 [values]: numbers as they are, or dates if the first value is one."""
    first = next((each for each in values if not isinstance(each, str) or each.strip()), "")
    text = str(first).strip()
    is_date = isinstance(first, datetime.date | np.datetime64)
    is_date |= bool(DATE.match(text)) and not NUMBER.fullmatch(text)
    times, faults = (_dates if is_date else _numbers)(values, expected)
    return times, faults | _rounded(values)


def _rounded(values: Any) -> Faults:
    """Name the numbers that are as large as those that their type, a short float, rounds."""
    dtype = getattr(values, "dtype", None)
    dtype = getattr(dtype, "numpy_dtype", dtype)
    if dtype not in (np.float16, np.float32):
        return {}
    is_large = np.abs(np.asarray(values, np.float64)) >= 2 ** (np.finfo(dtype).nmant + 1)
    advice = f"a {dtype}, which rounds such numbers; read the column as float64 or whole numbers"
    places = np.flatnonzero(is_large).tolist()
    return {
        at: f"expected an exact number, got {shown(float(values[at]))}, {advice}" for at in places
    }


def _dates(values: Any, expected: str) -> tuple[FloatArray, Faults]:
    """Return float64 [values], seconds since 1970 in UTC, exact to the microsecond."""
    require("pandas", "for dates in a data file")
    import pandas as pd

    dates, faults = values, Faults()
    if not isinstance(values, pd.DatetimeIndex):
        dates, faults = _converted(values, _date, expected)
    dates = pd.to_datetime(dates, errors="coerce", format="ISO8601", utc=True).tz_convert(None)
    for at in np.flatnonzero(dates.isna()).tolist():
        faults.setdefault(at, f"{expected}, got {shown(values[at])}")
    micro = dates.as_unit("us")
    seconds, rest = np.divmod(micro.asi8, 10**6)
    is_inexact = (micro != dates) | ((rest != 0) & (np.abs(seconds) > 2**33))
    for at in np.flatnonzero(is_inexact).tolist():
        fault = f"expected a time in whole microseconds, got '{dates[at].isoformat()}'; round it"
        faults.setdefault(at, fault)
    return np.asarray(seconds + rest / 1e6, np.float64), faults


def _date(value: Any) -> str:
    if not isinstance(value, str | datetime.date | np.datetime64) or not DATE.match(str(value)):
        raise ValueError
    return str(value)


READERS: Mapping[str, tuple[str, Callable[[Any, str], tuple[Any, Faults]]]] = {
    "user": ("expected an id", _ids),
    "item": ("expected an id", _ids),
    "rating": ("expected a finite number", _numbers),
    "timestamp": ("expected a finite number or a date such as 2024-05-01", _times),
}
