"""What is wrong with data: collected first, reported together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fedrec.errors import DataError
from fedrec.types import Interactions

__all__ = ["DataProblems", "Problems", "UnsuitableData"]

SHOWN = 3
"""Rows that are named for each kind of problem; the others are counted."""


class DataProblems(DataError):
    """One or more problems of the data.

    Args:
        lines: Each says one problem, and begins with the file or the data set.
        rest: The interactions of the rows without problems, for further checks, if there are any.
    """

    def __init__(self, lines: Iterable[str], rest: Interactions | None = None) -> None:
        self.lines, self.rest = tuple(lines), rest
        source = self.lines[0].partition(": ")[0] + ": "
        super().__init__(
            "; ".join([self.lines[0], *(_cut(each, source) for each in self.lines[1:])])
        )


class UnsuitableData(DataError):
    """The data cannot be used with an option of its data set.

    Args:
        text: What is wrong and what to do.
        without: Options under which this would be no problem, to look for the next one.
    """

    def __init__(self, text: str, **without: Any) -> None:
        super().__init__(text)
        self.without: Mapping[str, Any] = without


class Problems:
    """Problems of the rows of one source.

    Args:
        source: The file, or what else the rows come from.
        where: From a row, counted from 0, to how the user finds it: ``line 3``.
    """

    def __init__(self, source: str, where: Callable[[int], str]) -> None:
        self.source, self.where = source, where
        self.rows: set[int] = set()
        self._texts: list[str] = []

    def add(self, texts: Iterable[str]) -> None:
        """Add problems of one kind, of which the first few are shown."""
        texts = list(texts)
        self._texts += texts[:SHOWN]
        if len(texts) > SHOWN:
            self._texts[-1] += f" (and {len(texts) - SHOWN:,} more such lines)"

    def add_cells(self, column: object, reasons: Mapping[int, str]) -> None:
        """Add problems of the cells of a column.

        Args:
            column: Its name or number.
            reasons: What is wrong, by row. What stands before ``, got`` is the kind.
        """
        kinds: dict[str, list[int]] = {}
        for row in sorted(reasons):
            kinds.setdefault(reasons[row].partition(", got")[0], []).append(row)
        for rows in kinds.values():
            named = [
                f"{self.where(row)}, column '{column}': {reasons[row]}" for row in rows[:SHOWN]
            ]
            self.add(named + [""] * (len(rows) - len(named)))
        self.rows.update(reasons)

    def raise_if_any(self, rest: Callable[[], Interactions | None] = lambda: None) -> None:
        """Raise all problems together.

        Args:
            rest: Makes the interactions of the rows without problems.

        Raises:
            DataProblems: If there are any.
        """
        if self._texts:
            raise DataProblems((f"{self.source}: {text}" for text in self._texts), rest())


def _cut(line: str, source: str) -> str:
    return line.removeprefix(source)
