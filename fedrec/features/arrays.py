"""Features that lie in a file of arrays already."""

import zipfile
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import model_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fedrec.data.catalogue import Catalogue
from fedrec.errors import DataError, did_you_mean
from fedrec.features.base import Encoded, Encoder, Report
from fedrec.storage.files import checksum_of
from fedrec.types import FloatArray, IntArray


class ArrayFile(Encoder):
    """An array with a row for each item, in a ``.npy``, ``.npz`` or ``.safetensors`` file.

    Rows belong to items by raw id; items without a row have no feature. Rows of other items are
    left out.

    Args:
        path: the file.
        array: its name in the file; None: the file holds one.
        ids: the name of the array of raw ids, text or whole numbers, in the same order.
        ids_file: in its place a ``.npy`` file of ids, or a text file with an id in each line.
        mask: the name of an array that says which rows hold something; None: all.
        by_row: there are no ids: the rows are those of all items, sorted by raw id.
    """

    path: Path
    array: str | None = None
    ids: str | None = None
    ids_file: Path | None = None
    mask: str | None = None
    by_row: bool = False

    @model_validator(mode="after")
    def _knows_the_items(self) -> Self:
        if self.by_row + (self.ids is not None) + (self.ids_file is not None) != 1:
            raise ValueError("ids: name the array of the raw ids, or give ids_file or by_row: true")
        return self

    def content(self, items: Catalogue) -> str:
        """Hash the rows of the items."""
        values, rows, _ = self._read(items)
        return checksum_of({"values": values, "rows": rows}, {})

    def encode(self, items: Catalogue, report: Report) -> Encoded:
        """Return the rows of the items."""
        values, rows, others = self._read(items)
        sums = np.abs(values).reshape(len(values), -1).sum(axis=1, dtype=np.float64)
        wrong = np.flatnonzero((rows >= 0) & ~np.isfinite(sums[rows]))
        if len(wrong):
            raise DataError(
                f"{self.path}: the row of item '{items.item_ids[wrong[0]]}' is not finite "
                f"({len(wrong):,} such rows); leave it out, or set mask"
            )
        present = rows >= 0
        encoded = np.zeros((items.n_items, *values.shape[1:]), np.float32)
        encoded[present] = values[rows[present]]
        note = f"{self.path.name}: {others:,} rows are of no item of the data, and left out"
        return Encoded(encoded, present, (note,) * (others > 0))

    def _read(self, items: Catalogue) -> tuple[FloatArray, IntArray, int]:
        """Return the array; the row of each item, -1 where it has none; the rows of no item."""
        arrays = _arrays(self.path)
        others = {name for name in (self.ids, self.mask) if name in arrays}
        name = self.array
        if name is None:
            names = arrays.keys() - others
            if len(names) != 1:
                raise DataError(f"{self.path}: set array{did_you_mean('', names)}")
            name = next(iter(names))
        values = _named(arrays, name, "array", self.path)
        if values.dtype.kind not in "iuf" or values.ndim < 2 or not len(values):
            raise DataError(
                f"{self.path}: array '{name}' is {values.dtype} {list(values.shape)}, expected "
                "numbers with a row for each item"
            )
        is_there = np.ones(len(values), np.bool_)
        if self.mask is not None:
            is_there = _named(arrays, self.mask, "mask", self.path).astype(np.bool_)
            _check_length(self.path, f"mask '{self.mask}'", is_there, values)
        if self.by_row:
            if len(values) != items.n_items:
                raise DataError(
                    f"{self.path}: has {len(values):,} rows for {items.n_items:,} items; by_row "
                    "needs as many; filters and the split leave items out, so give ids instead"
                )
            return values, np.where(is_there, np.arange(len(values)), -1), 0
        ids = self._ids(arrays)
        _check_length(self.path, f"ids '{self.ids or self.ids_file}'", ids, values)
        rows = {each: row for row, each in enumerate(ids.tolist())}
        if len(rows) < len(ids):
            twice = next(each for row, each in enumerate(ids.tolist()) if rows[each] != row)
            raise DataError(f"{self.path}: id '{twice}' has two rows; expected one for each item")
        at = np.array([rows.get(each, -1) for each in items.item_ids.tolist()], np.int64)
        if (at < 0).all():
            raise DataError(
                f"{self.path}: none of its ids, such as '{ids[0]}', is one of the data, such as "
                f"'{items.item_ids[0]}'; expected raw ids"
            )
        rest = len(values) - int((at >= 0).sum())
        return values, np.where((at >= 0) & is_there[at], at, -1), rest

    def _ids(self, arrays: dict[str, Any]) -> FloatArray:
        """Return the raw ids as texts, without white space."""
        path = self.ids_file
        if path is None:
            ids = _named(arrays, self.ids or "", "ids", self.path)
        elif path.suffix == ".npy":
            ids = next(iter(_arrays(path).values()))
        else:
            try:
                ids = np.array(path.read_text(encoding="utf-8").split("\n"))
            except OSError as error:
                raise DataError(f"{path}: {error.strerror}; set ids_file") from error
            ids = ids[:-1] if ids[-1] == "" else ids
        if ids.dtype.kind not in "iuUS" or ids.ndim != 1:
            raise DataError(
                f"{path or self.path}: ids are {ids.dtype} {list(ids.shape)}, expected text or "
                "whole numbers in one row"
            )
        return np.array([each.strip() for each in ids.astype(np.str_).tolist()], object)


def _arrays(path: Path) -> dict[str, FloatArray]:
    """Return the arrays of a file by name; that of a ``.npy`` file is called "".

    Raises:
        DataError: If it is missing, damaged, or of another kind.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; set path (from {Path.cwd()})") from error
    except (OSError, ValueError, EOFError, SafetensorError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: no arrays can be read from it: {reason}; expected .npy, .npz or "
            ".safetensors, without Python objects"
        ) from error


def _named(arrays: dict[str, FloatArray], name: str, setting: str, path: Path) -> FloatArray:
    if name not in arrays:
        near = did_you_mean(name, filter(None, arrays))
        raise DataError(f"{path}: {setting}: there is no array '{name}'{near}")
    return arrays[name]


def _check_length(path: Path, what: str, came: FloatArray, values: FloatArray) -> None:
    if len(came) != len(values):
        raise DataError(f"{path}: {what} has {len(came):,} entries for {len(values):,} rows")
