"""The data of a run in one compact file, so that its folder needs neither data file nor cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.errors import MissingExtra, RunFolderError
from fedrec.storage.files import RESTORE, checksum_of, write_bytes
from fedrec.types import Ragged, Split

__all__ = ["read_split", "write_split"]

MARK = "."
CHECKSUM = "checksum"


def write_split(path: Path, split: Split) -> None:
    """Write a split: one column per array, in one row, compressed.

    Args:
        path: The file.
        split: The data.

    Raises:
        MissingExtra: If pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import feather
    except ImportError as error:
        raise MissingExtra("pyarrow, for running experiments,", "sim") from error
    columns: dict[str, Any] = {}
    scalars: dict[str, str] = {}
    for field in dataclasses.fields(split):
        value = getattr(split, field.name)
        if isinstance(value, Ragged):
            columns[f"{field.name}{MARK}offsets"] = value.offsets
            columns[f"{field.name}{MARK}values"] = value.values
        elif isinstance(value, Mapping):
            columns |= {f"{field.name}{MARK}{name}": array for name, array in value.items()}
        elif isinstance(value, np.ndarray):
            columns[field.name] = value
        elif value is not None:
            scalars[field.name] = str(value)
    columns = {
        name: a.astype(object) if a.dtype.kind in "UO" else np.ascontiguousarray(a)
        for name, a in columns.items()
    }
    lists = {
        name: pa.LargeListArray.from_arrays(
            pa.array([0, len(array)], pa.int64()),
            pa.array(array.tolist(), pa.string()) if array.dtype == object else pa.array(array),
        )
        for name, array in columns.items()
    }
    scalars[CHECKSUM] = checksum_of(columns, scalars)
    table = pa.table(lists).replace_schema_metadata(scalars)
    sink = pa.BufferOutputStream()
    feather.write_feather(table, sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())


def read_split(path: Path) -> Split:
    """Return the split of a file that `write_split` wrote.

    Raises:
        MissingExtra: If pyarrow is not installed.
        RunFolderError: If it is missing or damaged.
    """
    try:
        from pyarrow import feather
    except ImportError as error:
        raise MissingExtra("pyarrow, for reading runs,", "sim") from error
    if not path.exists():
        raise RunFolderError(f"{path}: is missing; {RESTORE}")
    try:
        table = feather.read_table(path)
        arrays = {name: _array(table.column(name)) for name in table.column_names}
        scalars = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        if scalars.pop(CHECKSUM) != checksum_of(arrays, scalars):
            raise ValueError("its checksum does not match")
        values: dict[str, Any] = {}
        for field in dataclasses.fields(Split):
            inner = {
                name.partition(MARK)[2]: array
                for name, array in arrays.items()
                if name.startswith(f"{field.name}{MARK}")
            }
            if "Ragged" in str(field.type):
                values[field.name] = Ragged(inner["offsets"], inner["values"])
            elif "Mapping" in str(field.type):
                values[field.name] = inner
            elif field.name in scalars:
                text = scalars[field.name]
                values[field.name] = int(text) if field.type == "int" else text
            else:
                values[field.name] = arrays.get(field.name)
        return Split(**values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise RunFolderError(f"{path}: is damaged ({reason}); {RESTORE}") from error


def _array(column: Any) -> Any:
    values = column.chunk(0).values
    return values.to_numpy(zero_copy_only=False)
