"""The user's own interactions: csv, Parquet, RecBole's ``.inter`` files and data frames.

All go through `interactions_from_frame`. Data without timestamps has no order: leave-one-out
then holds out random interactions of each user, drawn by the split's seed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, PrivateAttr

from fedrec.data.base import DataSet
from fedrec.data.frames import Columns, content_hash, interactions_from_frame
from fedrec.data.textfile import file_hash, line_of_row, open_bytes, read_table
from fedrec.errors import DataError, MissingExtra
from fedrec.types import Interactions

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Csv", "Frame", "Inter", "Parquet"]


class _File(DataSet):
    """A file of interactions.

    Args:
        path: the file; relative paths start at the working folder.
        columns: which column holds what.
    """

    path: Path
    columns: Columns = Columns()

    def load(self) -> Interactions:
        """Read the file.

        Raises:
            DataError: If it is missing, damaged or empty, or a cell is; with the line.
            MissingExtra: If pandas is not installed.
        """
        _needs("pandas", f"reading {type(self).__name__.lower()} files")
        frame = self._read()
        return interactions_from_frame(
            frame,
            self._columns(frame),
            name=self.path.name.partition(".")[0],
            source=str(self.path),
            where=self._where,
        )

    def located(self) -> Self:
        """With the whole path of the file."""
        return self.model_copy(update={"path": self.path.absolute()})

    def fingerprint(self) -> str:
        """A hash of the file and of how it is read."""
        how = self.model_dump(mode="json", exclude={*DataSet.model_fields, "path"})
        how["name"] = self.path.name
        text = json.dumps([type(self).__name__, file_hash(self.path), how])
        return hashlib.sha256(text.encode()).hexdigest()

    def _columns(self, frame: pd.DataFrame) -> Columns:
        return self.columns

    def _where(self, row: int) -> str:
        return f"{self.path}, row {row + 1}"

    @abstractmethod
    def _read(self) -> pd.DataFrame: ...


class Csv(_File):
    """A text file with one interaction in a line, plain or gzipped.

    Args:
        separator: between the cells; may be longer than one character, as in ``::``.
        header: whether the first line names the columns. If not, ``columns`` are numbers from 0.
        encoding: of the text.
    """

    separator: str = Field(",", min_length=1)
    header: bool = True
    encoding: str = "utf-8"

    def _read(self) -> pd.DataFrame:
        for part, column in self.columns.named().items():
            if isinstance(column, int) == self.header:
                expected = "a name" if self.header else "a number from 0"
                raise DataError(
                    f"data.columns.{part}: expected {expected}, got {column!r}, because "
                    f"data.header is {str(self.header).lower()}"
                )
        return read_table(
            self.path,
            separator=self.separator,
            header=self.header,
            encoding=self.encoding,
            quoted=True,
        )

    def _where(self, row: int) -> str:
        line = line_of_row(
            self.path, row, separator=self.separator, header=self.header, encoding=self.encoding
        )
        return f"{self.path}, line {line}"


class Parquet(_File):
    """A Parquet file with one interaction in a row."""

    def _read(self) -> pd.DataFrame:
        _needs("pyarrow", "reading parquet files")
        import pandas as pd

        open_bytes(self.path).close()
        try:
            return pd.read_parquet(self.path)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{self.path}: not a readable Parquet file: {reason}") from error


class Inter(_File):
    """RecBole's atomic file of interactions: tab-separated, with a typed header.

    The header says ``name:type`` for each column. ``rating`` and ``timestamp`` are read where
    they are there and ``columns`` does not name others.
    """

    columns: Columns = Columns(user="user_id", item="item_id")

    def _read(self) -> pd.DataFrame:
        frame = read_table(self.path, separator="\t", header=True, encoding="utf-8", quoted=False)
        untyped = [str(column) for column in frame.columns if ":" not in str(column)]
        if untyped:
            raise DataError(
                f"{self.path}, line 1: expected columns as name:type, such as user_id:token, got "
                f"'{untyped[0]}'; for other text files use name: csv"
            )
        return frame.rename(columns=lambda column: str(column).partition(":")[0])

    def _columns(self, frame: pd.DataFrame) -> Columns:
        given = {"user": self.columns.user, "item": self.columns.item}
        for part in ("rating", "timestamp"):
            chosen = getattr(self.columns, part)
            given[part] = part if chosen is None and part in frame.columns else chosen
        return Columns.model_validate(given)

    def _where(self, row: int) -> str:
        line = line_of_row(self.path, row, separator="\t", header=True, encoding="utf-8")
        return f"{self.path}, line {line}"


class Frame(DataSet):
    """A pandas data frame, given from Python with `Frame.of`.

    The rows themselves are not part of the configuration: a dumped experiment holds their hash,
    and cannot be run again from YAML alone.

    Args:
        content: hash of the rows.
        columns: which column holds what.
    """

    content: str = ""
    columns: Columns = Columns()
    _frame: Any = PrivateAttr(default=None)

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        *,
        user: str = "user",
        item: str = "item",
        rating: str | None = None,
        timestamp: str | None = None,
        **options: Any,
    ) -> Frame:
        """A data set of the rows of a data frame.

        Args:
            frame: One row per interaction; it is copied.
            user: Column of the user's id.
            item: Column of the item's id.
            rating: Column of the rating, if there is one.
            timestamp: Column of the time, numbers or dates, if there is one.
            options: What every data set has: ``split``, ``threshold``, ...

        Example:
            >>> import pandas as pd
            >>> orders = pd.DataFrame({"customer": ["ann", "bob"], "sku": [7, 9]})
            >>> data = Frame.of(orders, user="customer", item="sku", short_users="train_only")
            >>> data.load().item_ids.tolist()
            ['7', '9']

            It is then the ``data`` of an experiment: ``fedrec.Experiment(data=data)``.
        """
        columns = Columns(user=user, item=item, rating=rating, timestamp=timestamp)
        names = [name for name in columns.named().values() if name in frame.columns]
        data = cls.model_validate(
            {**options, "columns": columns, "content": content_hash(frame[names])}
        )
        data._frame = frame.copy()
        return data

    def load(self) -> Interactions:
        """The interactions of the rows.

        Raises:
            DataError: If this comes from a dumped configuration, which has no rows, or a cell is
                bad; rows are counted from 1.
        """
        if self._frame is None:
            raise DataError(
                "data 'frame' has no rows: they are not kept in YAML; give them from Python with "
                "fedrec.data.Frame.of(frame), or write them to a file and use name: csv"
            )
        return interactions_from_frame(
            self._frame,
            self.columns,
            name="frame",
            source="data frame",
            where=lambda row: f"data frame, row {row + 1}",
        )

    def fingerprint(self) -> str:
        """The hash of the rows and the columns."""
        return hashlib.sha256(f"{self.content} {self.columns!r}".encode()).hexdigest()


def _needs(module: str, part: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise MissingExtra(f"{module}, for {part},", "sim")
