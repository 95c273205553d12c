"""Data sets that fedrec can fetch: where they come from, their licence, their checksums.

Nothing is printed here: what the user should read goes through ``say``.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedrec.errors import DataError, did_you_mean
from fedrec.plugins import lookup
from fedrec.storage.cache import cache_folder, expanded, publish, scratch
from fedrec.types import Interactions

__all__ = ["CATALOGUE", "Remote", "catalogue", "check", "find", "get", "member", "summary"]

CHECKSUMS = "checksums.json"
ARCHIVE_TIMEOUT = 5.0
PACKAGE_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class Remote:
    """A data set that can be fetched.

    Args:
        name: in the table of data sets.
        about: one line: what it is, and its size.
        terms: the licence terms, as the user must see them.
        archive: URL of the publisher's zip file.
        archive_md5: its checksum, as published.
        archive_members: the members that are kept.
        package: a pinned distribution on the package index that carries the same data.
        package_members: path in its wheel → sha256, of the members that are kept.
    """

    name: str
    about: str
    terms: str
    archive: str
    archive_md5: str
    archive_members: tuple[str, ...]
    package: str
    package_members: Mapping[str, str]

    @property
    def layouts(self) -> tuple[tuple[str, ...], ...]:
        """The sets of file names, any of which is the whole data set."""
        packaged = tuple(Path(path).name for path in self.package_members)
        return packaged, tuple(Path(path).name for path in self.archive_members)


CATALOGUE: Mapping[str, Remote] = {
    "ml-100k": Remote(
        name="ml-100k",
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


def catalogue() -> tuple[tuple[str, str, Path | None], ...]:
    """The data sets that can be fetched: name, one line about it, and where it is, if it is."""
    return tuple((name, remote.about, find(name)) for name, remote in CATALOGUE.items())


def member(folder: Path, name: str) -> Path | None:
    """A file of a folder, plain or gzipped, or None."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def find(name: str) -> Path | None:
    """The folder that holds a data set: below ``FEDREC_DATA``, or the cache, or None.

    Args:
        name: Of the catalogue.

    Raises:
        DataError: If ``FEDREC_DATA`` is set to something that is no folder.
    """
    remote = _remote(name)
    given = os.environ.get("FEDREC_DATA")
    if given:
        if not expanded(given).is_dir():
            raise DataError(f"FEDREC_DATA={given}: no such folder; set it to one, or unset it")
        folder = expanded(given) / name
        if any(all(member(folder, file) for file in layout) for layout in remote.layouts):
            return folder
    kept = cache_folder() / name
    return kept if _intact(kept) else None


def get(name: str, say: Callable[[str], None]) -> Path:
    """Fetch a data set, unless it is here: from its publisher, else from the package index.

    Args:
        name: Of the catalogue.
        say: Is told the licence terms and what happens, one line at a time.

    Returns:
        The folder that holds it.

    Raises:
        DataError: If neither road leads there; it names both causes and the ways out.
    """
    remote = _remote(name)
    present = find(name)
    if present is not None:
        say(f"{name}: already in {present}")
        return present
    say(remote.terms)
    target = cache_folder() / name
    causes = []
    for label, road in (
        (remote.archive, _from_archive),
        (f"package {remote.package}", _from_package),
    ):
        say(f"{name}: fetching from {label}")
        try:
            files = road(remote)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            causes.append(f"{label}: {_one_line(error)}")
            say(f"{name}: that failed ({_one_line(error)})")
            continue
        with scratch(target) as folder:
            for file, content in files.items():
                (folder / file).write_bytes(content)
            sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
            (folder / CHECKSUMS).write_text(json.dumps(sums, indent=1), encoding="utf-8")
            publish(folder, target, _intact)
        say(f"{name}: kept in {target}")
        return target
    raise DataError(
        f"{name} could not be fetched ({'; '.join(causes)}); run 'fedrec data get {name}' where "
        f"there is a network, or set FEDREC_DATA to a folder that holds "
        f"{' and '.join(f'{name}/{file}' for file in remote.layouts[0])}"
    )


def check(name: str) -> str:
    """Verify the files of a data set: checksums where they are known, and counts.

    Args:
        name: Of the catalogue.

    Returns:
        One line: where it is and what is in it.

    Raises:
        DataError: If it is absent or damaged, with the way out.
    """
    remote = _remote(name)
    folder = find(name)
    if folder is None:
        kept = cache_folder() / name
        state = f"damaged in {kept}" if kept.exists() else "not here"
        raise DataError(f"{name} is {state}; run: fedrec data get {name}")
    for path, expected in remote.package_members.items():
        file = member(folder, Path(path).name)
        if file is not None and _sha256(file) != expected:
            raise DataError(f"{file}: differs from the published file; remove it, or fetch it anew")
    data = lookup("data", name)().load()  # type: ignore[attr-defined]
    return f"{summary(data)} in {folder}: sound"


def summary(data: Interactions) -> str:
    """Say in one line what a data set holds."""
    ratings, times = data.ratings, data.timestamps
    return (
        f"{data.name}: {len(data.user_ids):,} users, {len(data.item_ids):,} items, "
        f"{len(data):,} interactions, "
        + (
            "no ratings, "
            if ratings is None
            else f"ratings {ratings.min():g} to {ratings.max():g}, "
        )
        + ("no times" if times is None else f"times {times.min():.10g} to {times.max():.10g}")
    )


def _remote(name: str) -> Remote:
    if name not in CATALOGUE:
        raise DataError(f"'{name}' cannot be fetched{did_you_mean(name, CATALOGUE)}")
    return CATALOGUE[name]


def _intact(folder: Path) -> bool:
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        return bool(sums) and all(_sha256(folder / file) == sums[file] for file in sums)
    except (OSError, ValueError):
        return False


def _sha256(path: Path) -> str:
    content = path.read_bytes()
    try:
        plain = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked: {error}") from error
    return hashlib.sha256(plain).hexdigest()


def _from_archive(remote: Remote) -> dict[str, bytes]:
    deadline = time.monotonic() + 12 * ARCHIVE_TIMEOUT
    content = bytearray()
    with urllib.request.urlopen(remote.archive, timeout=ARCHIVE_TIMEOUT) as reply:
        while block := reply.read(1 << 16):
            content += block
            if time.monotonic() > deadline:
                raise TimeoutError(f"slower than {12 * ARCHIVE_TIMEOUT:.0f} s")
    came = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if came != remote.archive_md5:
        raise ValueError(f"checksum {came}, expected {remote.archive_md5}")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {Path(path).name: archive.read(path) for path in remote.archive_members}


def _from_package(remote: Remote) -> dict[str, bytes]:
    folder = Path(tempfile.mkdtemp(prefix="fedrec-"))
    # Only wheels: to learn the version of a source distribution pip would run its code.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), remote.package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PACKAGE_TIMEOUT)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise ValueError(f"pip: {lines[-1]}")
        wheels = sorted(folder.glob("*.whl"))
        if not wheels:
            raise ValueError("pip: brought no wheel")
        files = {}
        with zipfile.ZipFile(wheels[0]) as wheel:
            for path, expected in remote.package_members.items():
                content = wheel.read(path)
                came = hashlib.sha256(content).hexdigest()
                if came != expected:
                    raise ValueError(f"{path}: checksum {came}, expected {expected}")
                files[Path(path).name] = content
        return files
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"pip: slower than {PACKAGE_TIMEOUT:.0f} s") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
