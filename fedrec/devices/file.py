"""Devices that a file describes, such as measured traces."""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fedrec.compute.context import RoundContext
from fedrec.data.columns import READERS
from fedrec.data.parquetfile import parquet_table
from fedrec.data.textfile import read_bytes
from fedrec.devices.availability import DAY, Availability, ticks_of
from fedrec.devices.base import Devices
from fedrec.devices.fleet import LIMITS, Fleet, fault_of
from fedrec.errors import DataError, did_you_mean
from fedrec.ragged import offsets_of
from fedrec.types import FloatArray, IntArray

SPEEDS = (*LIMITS,)
INTERVALS = ("online_from", "online_to")
PERIOD = "period"

_log = logging.getLogger("fedrec.devices")


class DeviceFile(Devices):
    """Devices of a CSV or Parquet file, one in a row, dealt to the clients at random.

    The columns ``seconds_per_example``, ``download`` and ``upload`` (bytes per second) are numbers
    above 0. When devices are online is said by ``online_from`` and ``online_to``, lists of seconds
    since the period began: a device is online from the first of ``online_from`` until the first of
    ``online_to``, and so on. In CSV numbers of a list stand between spaces. ``period``, in seconds,
    is when the intervals repeat; without that column after a day. A file without the lists
    describes devices that are always online.

    Devices are dealt by the seed as from a pack of cards that holds each as often as is needed for
    all clients.

    Args:
        path: the file; relative paths start at the working folder.
    """

    path: Path

    def fleet(self, context: RoundContext) -> Fleet:
        """Read the file and deal its devices.

        Raises:
            DataError: If it is missing or damaged, has no devices, a column is missing, or a device
                makes no sense; with the line.
            MissingExtra: If what reads it is not installed.
        """
        devices = self._devices()
        n, packs = context.n_clients, -(-context.n_clients // len(devices))
        cards = np.arange(packs * len(devices), dtype=np.int64)
        drawn = np.argsort(context.bits("devices", cards, np.zeros(1, np.int64)), kind="stable")
        dealt = drawn[:n] % len(devices)
        speeds = {name: getattr(devices, name)[dealt] for name in SPEEDS}
        return Fleet(**speeds, availability=devices.availability.take(dealt))

    def _devices(self) -> Fleet:
        """Return the devices of the file, in its order."""
        columns, where = self._columns()
        rows = _Rows(self.path, columns, where)
        for name in SPEEDS:
            rows.check_column(name)
        others = [each for each in columns if each not in (*SPEEDS, *INTERVALS, PERIOD)]
        if others:
            _log.warning(f"{self.path}: not read: {', '.join(others)}")
        if not where:
            raise DataError(f"{self.path}: no devices; expected one in each row")
        speeds = {name: rows.numbers(name) for name in SPEEDS}
        if fault := fault_of(speeds):
            rows.fail(*fault)
        return Fleet(**speeds, availability=rows.availability())

    def _columns(self) -> tuple[Mapping[str, Sequence[Any]], Sequence[str]]:
        """Return the cells of each column by its name, and how the user finds each row."""
        if not self.path.is_file():
            raise DataError(
                f"{self.path}: there is no such file; set rounds.devices.path (from {Path.cwd()}) "
                "or give the whole path"
            )
        content = read_bytes(self.path)
        if not content.startswith(b"PAR1"):
            return _text_columns(self.path, content)
        table = parquet_table(self.path)
        _check_names(self.path, table.labels)
        cells = dict(zip(table.labels, table.cells(range(len(table.labels))), strict=True))
        columns = {
            str(label): [None if code < 0 else values[code] for code in codes.tolist()]
            for label, (codes, values) in cells.items()
        }
        n = len(next(iter(columns.values()), ()))
        return columns, [f"row {row + 1}" for row in range(n)]


def _text_columns(path: Path, content: bytes) -> tuple[dict[str, list[str]], list[str]]:
    """Return the cells of a text by the names in its first line, and the line of each row."""
    try:
        text = io.StringIO(content.decode("utf-8-sig"), newline="")
        reader = csv.reader(text, strict=True)
        rows = [(reader.line_num, cells) for cells in reader if "".join(cells).strip() or cells[1:]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is neither CSV in UTF-8 nor Parquet: {error}") from None
    if not rows:
        raise DataError(f"{path}: the file is empty; expected a device in each row")
    names = [name.strip() for name in rows[0][1]]
    _check_names(path, names)
    for line, cells in rows:
        if len(cells) != len(names):
            raise DataError(
                f"{path}: line {line}: has {len(cells)} cells, expected {len(names)}, separated by "
                "commas"
            )
    columns = {name: [cells[at] for _, cells in rows[1:]] for at, name in enumerate(names)}
    return columns, [f"line {line}" for line, _ in rows[1:]]


def _check_names(path: Path, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: two columns are named '{name}'; rename one")


class _Rows:
    """The rows of a file.

    Args:
        path: The file.
        columns: The cells of each column.
        where: How the user finds each row.
    """

    def __init__(
        self, path: Path, columns: Mapping[str, Sequence[Any]], where: Sequence[str]
    ) -> None:
        self._path, self._columns, self._where = path, columns, where

    def check_column(self, name: str) -> None:
        """Check that a column is there."""
        if name not in self._columns:
            near = did_you_mean(name, self._columns)
            raise DataError(f"{self._path}: no column '{name}'{near}; add it")

    def fail(self, row: int, fault: str) -> NoReturn:
        """Raise an error that names a row."""
        raise DataError(f"{self._path}: {self._where[row]}: {fault}")

    def numbers(self, name: str) -> FloatArray:
        """Return the numbers of a column, float64 [n]."""
        cells = self._columns[name]
        return self._read(name, cells, np.arange(len(cells), dtype=np.int64))

    def availability(self) -> Availability:
        """Return when the devices are online."""
        n, named = len(self._where), [name for name in INTERVALS if name in self._columns]
        if not named and PERIOD not in self._columns:
            return Availability.always(n)
        for name in INTERVALS:
            self.check_column(name)
        lists = [[_parts(cell) for cell in self._columns[name]] for name in INTERVALS]
        counts = [np.array([len(parts) for parts in each], np.int64) for each in lists]
        if (counts[0] != counts[1]).any():
            row = int(np.argmax(counts[0] != counts[1]))
            self.fail(row, f"has {counts[0][row]} in online_from and {counts[1][row]} in online_to")
        owner = np.repeat(np.arange(n, dtype=np.int64), counts[0])
        starts, ends = (
            self._read(name, [part for parts in each for part in parts], owner)
            for name, each in zip(INTERVALS, lists, strict=True)
        )
        periods = np.full(n, float(DAY))
        if PERIOD in self._columns:
            periods = self.numbers(PERIOD)
        availability = Availability(
            ticks_of(periods), offsets_of(counts[0]), ticks_of(starts), ticks_of(ends)
        )
        if fault := availability.fault():
            self.fail(*fault)
        return availability

    def _read(self, name: str, cells: Sequence[Any], rows: IntArray) -> FloatArray:
        """Return cells as numbers, float64 [n].

        Args:
            name: Of the column.
            cells: What is read.
            rows: int64 [n], the row of each.
        """
        expected, read = READERS["rating"]
        values, faults = read(cells, expected)
        if faults:
            at, fault = min(faults.items())
            more = f" (and {len(faults) - 1:,} more)" if len(faults) > 1 else ""
            self.fail(int(rows[at]), f"column '{name}': {fault}{more}")
        return np.asarray(values, np.float64)


def _parts(cell: Any) -> Sequence[Any]:
    """Return the numbers in a cell: of a list, or of a text between spaces."""
    if cell is None:
        return ()
    if isinstance(cell, str):
        return cell.split()
    return cell if isinstance(cell, list | tuple) else np.atleast_1d(cell).tolist()
