"""From files to what each client trains on.

``load`` → `split` (filter, hold out, check) → `clients` → `prepare`, which caches the result.
"""

from collections.abc import Mapping

from fedrec.data.base import DataSet, SplitBy
from fedrec.data.fetch import MovieLens100K
from fedrec.data.synthetic import Synthetic
from fedrec.data.tabular import Csv, Frame, Inter, Lists, Parquet, Sqlite

__all__ = [
    "DATASETS",
    "Csv",
    "DataSet",
    "Frame",
    "Inter",
    "Lists",
    "MovieLens100K",
    "Parquet",
    "SplitBy",
    "Sqlite",
    "Synthetic",
]

DATASETS: Mapping[str, type[DataSet]] = {
    "csv": Csv,
    "frame": Frame,
    "inter": Inter,
    "lists": Lists,
    "ml-100k": MovieLens100K,
    "parquet": Parquet,
    "sqlite": Sqlite,
    "synthetic": Synthetic,
}
