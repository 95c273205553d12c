"""The user's own interactions: text files, Parquet, SQLite, RecBole's ``.inter``, data frames.

All go through `fedrec.data.columns`. Data without timestamps has no order: leave-one-out then
holds out random interactions of each user, drawn by the split's seed.
"""

import hashlib
import json
import re
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import PrivateAttr, field_validator, model_validator

from fedrec.data.base import DataSet
from fedrec.data.columns import Columns, Table, cells_of, interactions_of
from fedrec.data.items import ItemFile, Separator, item_columns
from fedrec.data.parquetfile import parquet_table
from fedrec.data.sqlitefile import sqlite_table
from fedrec.data.textfile import content_hash, lists_table, text_of, text_table, unpacked_name
from fedrec.errors import ConfigError, DataError, did_you_mean, require
from fedrec.storage.files import checksum_of
from fedrec.types import Interactions

if TYPE_CHECKING:
    import pandas as pd

HASHED = ("users", "items", "ratings", "timestamps", "user_ids", "item_ids")
SEPARATORS = ("\t", ";", "|", "::", ",", ":")
NUMBERS = re.compile(r"[\d\s.:;|]+")


class _File(DataSet):
    """A file of interactions, which may be packed (gzip, bzip2, xz, zstd, zip).

    Args:
        path: the file; relative paths start at the working folder.
        items: a file with columns of the items, such as their titles, or only its path.
    """

    path: Path
    items: ItemFile | None = None

    @field_validator("items", mode="before")
    @classmethod
    def _is_a_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value

    def load(self) -> Interactions:
        """Read the file.

        Raises:
            DataError: If it is missing, damaged or empty, or cells are; with the lines.
            MissingExtra: If what reads it is not installed.
        """
        table, columns = self._table()
        interactions = interactions_of(table, columns, unpacked_name(self.path).stem)
        if self.items is None:
            return interactions
        return replace(interactions, item_columns=self.items.columns(interactions.item_ids))

    def is_here(self) -> bool:
        """Return whether its files exist."""
        return self.path.exists() and (self.items is None or self.items.path.exists())

    def unread(self) -> list[str]:
        """Return the columns that `load` does not read."""
        table, columns = self._table()
        return [each for each in map(str, table.labels) if each not in columns.named().values()]

    @abstractmethod
    def _table(self) -> tuple[Table, Columns]: ...

    def fingerprint(self) -> str:
        """Hash the content of its files, unpacked, and how they are read."""
        others = dict.fromkeys([*DataSet.model_fields, "path"], True)
        how = self.model_dump(mode="json", exclude={**others, "items": {"path"}})
        paths = [self.path, *([] if self.items is None else [self.items.path])]
        text = json.dumps([type(self).__name__, [*map(content_hash, paths)], how])
        return hashlib.sha256(text.encode()).hexdigest()


class Csv(_File):
    """A text file with one interaction in a line.

    Args:
        columns: which column holds what.
        separator: between the cells; any characters, such as ``;``, ``::`` or a tab.
        header: whether the first line names the columns. If not, ``columns`` are numbers from 0.
        encoding: of the text.
        quoted: whether a cell in double quotes may hold separators.
    """

    columns: Columns = Columns()
    separator: Separator = ","
    header: bool = True
    encoding: str = "utf-8"
    quoted: bool = True

    def _table(self) -> tuple[Table, Columns]:
        table = text_table(
            str(self.path),
            text_of(self.path, self.encoding),
            separator=self.separator,
            header=self.header,
            quoted=self.quoted,
        )
        numeric = [label for label in table.labels if NUMBERS.fullmatch(str(label))]
        if self.header and numeric and set(table.labels).isdisjoint(self.columns.named().values()):
            raise DataError(
                f"{self.path}: line 1: expected the names of columns, got '{numeric[0]:.20}'; if "
                "the file has no header, set data.header: false and number data.columns from 0; "
                "for a user and its items in each line set data.name: lists"
            )
        kind = "a name" if self.header else "a number from 0"
        table.way_out += f" to {kind}, as data.header is {str(self.header).lower()}"
        if len(table.labels) == 1:
            others = [each for each in SEPARATORS if each in str(table.labels[0])]
            table.way_out += f", or set data.separator{f' to {others[0]!r}' if others else ''}"
        return table, self.columns


class Inter(_File):
    """RecBole's atomic file of interactions: tab-separated, with a typed header.

    The header says ``name:type`` for each column. ``rating`` and ``timestamp`` are read where
    they are there and ``columns`` does not name others.

    Args:
        columns: which column holds what.
        encoding: of the text.
    """

    columns: Columns = Columns(user="user_id", item="item_id")
    encoding: str = "utf-8"

    def _table(self) -> tuple[Table, Columns]:
        text = text_of(self.path, self.encoding)
        table = text_table(str(self.path), text, separator="\t")
        for label in table.labels:
            if ":" not in label:
                raise DataError(
                    f"{self.path}: line 1: expected columns as name:type, such as user_id:token, "
                    f"got '{label}'; for other text files set data.name: csv"
                )
        table.labels = [label.partition(":")[0] for label in table.labels]
        there = {field: field for field in ("rating", "timestamp") if field in table.labels}
        return table, Columns.model_validate(there | self.columns.named())


class Lists(_File):
    """A text file with one user and its items in a line: ``user item item item``.

    Args:
        separator: between the ids; None: any white space.
        ordered: whether a user's items stand in their order in time, so that leave-one-out holds
            out the last.
        encoding: of the text.
    """

    separator: Separator | None = None
    ordered: bool = False
    encoding: str = "utf-8"

    @model_validator(mode="after")
    def _has_no_common_time(self) -> Self:
        if self.split.name == "temporal":
            raise ValueError(
                "split: temporal needs times, and lists have at most an order for each user; use "
                "leave_one_out or ratio"
            )
        return self

    def _table(self) -> tuple[Table, Columns]:
        text = text_of(self.path, self.encoding)
        columns = Columns(timestamp="timestamp" if self.ordered else None)
        return lists_table(str(self.path), text, self.separator, columns), columns


class Parquet(_File):
    """A Parquet file with one interaction in a row.

    Args:
        columns: which column holds what.
    """

    columns: Columns = Columns()

    def _table(self) -> tuple[Table, Columns]:
        return parquet_table(self.path, self.columns.named().values()), self.columns


class Sqlite(_File):
    """A table of an SQLite database with one interaction in a row.

    An app may write to it meanwhile: what is read is the table at one moment.

    Args:
        table: the table, or a view.
        columns: which column holds what.
    """

    table: str = "interactions"
    columns: Columns = Columns()

    def _table(self) -> tuple[Table, Columns]:
        return sqlite_table(self.path, self.table, self.columns.named().values()), self.columns

    def fingerprint(self) -> str:
        """Hash the rows: the bytes of the file change while an app writes to it."""
        data = self.load()
        values = {field: getattr(data, field) for field in HASHED}
        values |= {f"items.{name}": column for name, column in data.item_columns.items()}
        return checksum_of({n: array for n, array in values.items() if array is not None}, {})


class Frame(DataSet):
    """A data frame, given from Python with `Frame.of`.

    The rows themselves are not part of the configuration: a dumped experiment holds their hash,
    and cannot be run again from YAML alone.

    Args:
        content: hash of the rows.
        columns: which column holds what.
    """

    content: str = ""
    columns: Columns = Columns()
    _interactions: Interactions | None = PrivateAttr(default=None)

    @classmethod
    def of(
        cls,
        frame: Any,
        *,
        user: str | int = "user",
        item: str | int = "item",
        rating: str | int | None = None,
        timestamp: str | int | None = None,
        items: Any = None,
        **options: Any,
    ) -> Self:
        """Make a data set of the rows of a table.

        Args:
            frame: One row per interaction: a data frame of pandas or polars, an Arrow table, a
                mapping of columns, a list of mappings, or a numpy array.
            user: Column of the user's id.
            item: Column of the item's id.
            rating: Column of the rating, if there is one.
            timestamp: Column of the time, numbers or dates, if there is one.
            items: A table with columns of the items, such as their titles; their ids stand in a
                column of the same name as in ``frame``, or in the first.
            options: What every data set has: ``split``, ``threshold``, ...

        Raises:
            ConfigError: If a keyword or its value is wrong.
            DataError: If it is no table, a column is missing, or cells are bad; rows are counted
                from 1.
            MissingExtra: If pandas is not installed.

        Example:
            >>> import pandas as pd
            >>> orders = pd.DataFrame({"customer": ["ann", "bob"], "sku": [7, 9]})
            >>> data = Frame.of(orders, user="customer", item="sku", short_users="train_only")
            >>> data.load().item_ids.tolist()
            ['7', '9']

            It is then the ``data`` of an experiment: ``fedrec.Experiment(data=data)``.
        """
        accepted = {*Columns.model_fields, *cls.model_fields} - {"columns", "content"}
        for name in options.keys() - accepted:
            raise ConfigError(f"Frame.of: unknown keyword '{name}'{did_you_mean(name, accepted)}")
        require("pandas", "for data frames")
        columns = Columns(user=user, item=item, rating=rating, timestamp=timestamp)
        rows = _frame_of(frame)
        interactions = interactions_of(_frame_table(rows, "data frame"), columns, "frame")
        values = {field: getattr(interactions, field) for field in HASHED}
        if items is not None:
            table = _frame_table(_frame_of(items), "data frame of items")
            named = str(item) if item in table.labels else None
            of_items = item_columns(table, named, interactions.item_ids)
            interactions = replace(interactions, item_columns=of_items)
            values |= {f"items.{name}": column for name, column in of_items.items()}
        arrays = {field: array for field, array in values.items() if array is not None}
        content = checksum_of(arrays, {})
        data = cls.model_validate({**options, "columns": columns, "content": content})
        data._interactions = interactions
        return data

    def load(self) -> Interactions:
        """Return the interactions of the rows.

        Raises:
            DataError: If this comes from a dumped configuration, which has no rows.
        """
        if self._interactions is None:
            raise DataError(
                "data 'frame' has no rows: they are not kept in YAML; give them from Python with "
                "fedrec.data.Frame.of(frame), or write them to a file and use name: csv"
            )
        return self._interactions

    def is_here(self) -> bool:
        """Return whether it has rows."""
        return self._interactions is not None

    def fingerprint(self) -> str:
        """Return the hash of the rows."""
        return self.content


def _frame_table(rows: "pd.DataFrame", source: str) -> Table:
    return Table(
        source=source,
        labels=[*rows.columns],
        way_out="name it with {}= of Frame.of; if it is the index, give frame.reset_index()",
        cells=lambda places: [cells_of(rows.iloc[:, place]) for place in places],
    )


def _frame_of(frame: Any) -> "pd.DataFrame":
    import pandas as pd

    try:
        return pd.DataFrame(frame.to_pandas() if hasattr(frame, "to_pandas") else frame)
    except (ValueError, TypeError, ImportError) as error:
        raise DataError(
            f"data frame: {error}; expected a table with columns of one length, such as "
            f"pandas.DataFrame, got {type(frame).__name__}"
        ) from error
