"""Parquet files as tables."""

from collections.abc import Collection
from pathlib import Path

from fedrec.data.columns import Table, cells_of
from fedrec.data.textfile import read_bytes
from fedrec.errors import DataError, require


def parquet_table(path: Path, wanted: Collection[str] | None = None) -> Table:
    """Return the cells of a Parquet file.

    Args:
        path: The file; see `fedrec.data.textfile.read_bytes`.
        wanted: The columns that are read, if they are there; None: all.

    Raises:
        DataError: If it is missing or damaged.
        MissingExtra: If what reads it is not installed.
    """
    for module in ("pandas", "pyarrow"):
        require(module, "for reading parquet files")
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(read_bytes(path)))
        labels = file.schema_arrow.names
        columns = [each for each in labels if wanted is None or each in wanted]
        rows = file.read(columns=columns)
        frame = rows.to_pandas(ignore_metadata=True, integer_object_nulls=True)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: not a readable Parquet file: {reason}; for text set data.name: csv"
        ) from error
    return Table(
        source=str(path),
        labels=labels,
        cells=lambda places: [cells_of(frame[labels[place]]) for place in places],
    )
