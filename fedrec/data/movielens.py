"""MovieLens 100K, the same bits from whichever source its files come.

Reference: F. M. Harper and J. A. Konstan, The MovieLens Datasets: History and Context,
ACM Transactions on Interactive Intelligent Systems 5(4), 2015.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import re
import zlib
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrec.data import ids
from fedrec.data.base import DataSet
from fedrec.data.fetch import find, get, member
from fedrec.data.ids import index_ids
from fedrec.errors import DataError
from fedrec.storage.cache import cache_folder
from fedrec.storage.files import write_text
from fedrec.types import IntArray, Interactions

__all__ = ["MovieLens100K"]

USERS, ITEMS, RATINGS = 943, 1682, 100_000
GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
FILES = ("ml-100k.inter", "ml-100k.item", "ml-100k.user", "u.data", "u.item", "u.user")
NO_TITLE = ("unknown", "unkonwn")

Rows = list[list[str]]


class MovieLens100K(DataSet):
    """MovieLens 100K with titles and genres, and the users' age, gender, occupation and zip code.

    The files are looked for below ``FEDREC_DATA`` and in the cache, and else fetched. A title
    ends with its year, ``Toy Story (1995)``; genres are joined by ``|`` in alphabetical order.
    """

    reference: ClassVar[str] = "harper2015movielens"

    def load(self) -> Interactions:
        """Read the ratings, sorted by user and item, and check their number.

        Raises:
            DataError: If the files are absent and cannot be fetched, or are damaged.
        """
        folder = _folder()
        if member(folder, "ml-100k.inter"):
            ratings = _numbers(folder, "ml-100k.inter", header=True)
            films = [_packaged_film(row) for row in _rows(folder, "ml-100k.item", "\t", 4)[1:]]
            people = _rows(folder, "ml-100k.user", "\t", 5)[1:]
        else:
            ratings = _numbers(folder, "u.data", header=False)
            films = [_official_film(row) for row in _rows(folder, "u.item", "|", 24)]
            people = _rows(folder, "u.user", "|", 5)
        ratings = ratings[np.lexsort((ratings[:, 1], ratings[:, 0]))]
        users, user_ids = _index(ratings[:, 0])
        items, item_ids = _index(ratings[:, 1])
        came = (len(user_ids), len(item_ids), len(ratings))
        if came != (USERS, ITEMS, RATINGS):
            raise DataError(
                f"{folder}: {came[0]} users, {came[1]} items and {came[2]} ratings, expected "
                f"{USERS}, {ITEMS} and {RATINGS}; remove it and run: fedrec data get ml-100k"
            )
        return Interactions(
            users=users,
            items=items,
            ratings=np.ascontiguousarray(ratings[:, 2]),
            timestamps=np.ascontiguousarray(ratings[:, 3]),
            user_ids=user_ids,
            item_ids=item_ids,
            user_columns=_columns(folder, user_ids, people, ("age", "gender", "occupation", "zip")),
            item_columns=_columns(folder, item_ids, films, ("title", "genres")),
            name="ml-100k",
        )

    def fingerprint(self) -> str:
        """A hash of what `load` returns, which is the same from every source.

        Noted in the cache for these files and this code, as reading takes longer than hashing.
        """
        note = cache_folder() / "fingerprints" / _raw(_folder())
        with suppress(OSError, UnicodeDecodeError):
            if re.fullmatch("[0-9a-f]{64}", known := note.read_text(encoding="utf-8")):
                return known
        data = self.load()
        digest = hashlib.sha256()
        for array in (data.users, data.items, data.ratings, data.timestamps):
            digest.update(np.ascontiguousarray(array).tobytes())
        for column in (*data.user_columns.values(), *data.item_columns.values()):
            digest.update("\n".join(column.tolist()).encode())
        with suppress(OSError):  # Who cannot write there is told when the split is kept.
            note.parent.mkdir(parents=True, exist_ok=True)
            write_text(note, digest.hexdigest())
        return digest.hexdigest()


def _folder() -> Path:
    return find("ml-100k") or get("ml-100k", logging.getLogger("fedrec.data").info)


def _raw(folder: Path) -> str:
    """A hash of the files as they are, and of the code that reads them."""
    digest = hashlib.sha256()
    for code in (Path(__file__), Path(ids.__file__)):
        digest.update(code.read_bytes())
    for name in FILES:
        path, content = member(folder, name), b""
        with suppress(OSError):  # What cannot be read is told by `_rows`.
            content = b"" if path is None else path.read_bytes()
        digest.update(f"{name} {None if path is None else path.name} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()


def _numbers(folder: Path, name: str, *, header: bool) -> NDArray[np.float64]:
    rows = _rows(folder, name, "\t", 4)[int(header) :]
    try:
        return np.array(rows, dtype=np.float64).reshape(len(rows), 4)
    except ValueError as error:
        raise DataError(f"{folder / name}: {error}; expected four numbers in a line") from error


def _index(numbers: NDArray[np.float64]) -> tuple[IntArray, NDArray[np.str_]]:
    values, codes = np.unique(numbers.astype(np.int64), return_inverse=True)
    return index_ids(codes.astype(np.int64), values.astype(np.str_))


def _rows(folder: Path, name: str, separator: str, width: int) -> Rows:
    path = member(folder, name)
    if path is None:
        raise DataError(f"{folder / name}: no such file; run: fedrec data get ml-100k")
    encoding = "utf-8" if name.startswith("ml-100k.") else "latin-1"
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode(encoding)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    rows = [line.split(separator) for line in text.split("\n") if line]
    for number, row in enumerate(rows, start=1):
        if len(row) != width:
            raise DataError(f"{path}: line {number}: has {len(row)} cells, expected {width}")
    return rows


def _official_film(row: list[str]) -> list[str]:
    genres = [genre for genre, flag in zip(GENRES, row[-len(GENRES) :], strict=True) if flag == "1"]
    return [row[0], _title(row[1]), "|".join(sorted(genres))]


def _packaged_film(row: list[str]) -> list[str]:
    title = row[1] if row[1] in NO_TITLE else f"{row[1]} ({row[2]})"
    return [row[0], _title(title), "|".join(sorted(row[3].split()))]


def _title(title: str) -> str:
    """Without the stray spaces of the official file and the misspelling of the packaged one."""
    stripped = title.strip()
    return NO_TITLE[0] if stripped in NO_TITLE else stripped


def _columns(
    folder: Path, ids: NDArray[np.str_], rows: Rows, names: tuple[str, ...]
) -> dict[str, NDArray[np.str_]]:
    known = {row[0]: row[1:] for row in rows}
    absent = [each for each in ids.tolist() if each not in known]
    if absent:
        raise DataError(f"{folder}: nothing is said about id {absent[0]}; run: fedrec data check")
    return {
        name: np.array([known[each][place].strip() for each in ids.tolist()], dtype=np.str_)
        for place, name in enumerate(names)
    }
