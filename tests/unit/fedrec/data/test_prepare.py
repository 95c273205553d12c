import multiprocessing
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.data import Synthetic
from fedrec.data.clients import Clients
from fedrec.data.prepare import open_split, prepare, save_split, split_of, version_of
from fedrec.errors import DataError, RunFolderError
from fedrec.ragged import Ragged
from fedrec.storage.files import cache_folder
from fedrec.types import Interactions, Split

MADE = Synthetic(users=30, items=40)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def bits(split: Split) -> dict[str, Any]:
    contents: dict[str, Any] = {}
    for field in fields(split):
        value = getattr(split, field.name)
        if isinstance(value, Ragged):
            contents[field.name] = (value.offsets.tobytes(), value.values.tobytes())
        elif isinstance(value, np.ndarray):
            contents[field.name] = (value.dtype.str, value.tolist())
        elif isinstance(value, dict):
            contents[field.name] = {name: array.tolist() for name, array in value.items()}
        else:
            contents[field.name] = value
    return contents


def test_what_is_opened_is_what_was_made(cache: Path) -> None:
    clients = Clients(by="random", count=7)
    path = prepare(MADE, clients)
    assert path.is_relative_to(cache)
    assert bits(open_split(path)) == bits(split_of(MADE, clients))


def test_every_field_survives_even_empty_parts(tmp_path: Path) -> None:
    split = split_of(MADE, Clients())
    none = Ragged(np.zeros(31, np.int64), np.zeros(0, np.int64))
    odd = replace(
        split,
        valid=none,
        timestamps=None,
        ratings=split.timestamps,
        item_columns={"a.b/../c": np.array(["é" * 3] * split.n_items, dtype=object)},
    )
    save_split(odd, tmp_path / "split")
    assert bits(open_split(tmp_path / "split")) == bits(odd)


def test_arrays_stay_on_disk_and_cannot_be_written() -> None:
    split = open_split(prepare(MADE, Clients()))
    assert isinstance(split.train.values.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        split.train.values[0] = 1


def test_it_is_reused_and_whatever_changes_the_split_changes_the_place() -> None:
    path = prepare(MADE, Clients())
    stamp = path.stat().st_mtime_ns
    assert prepare(MADE, Clients()) == path
    assert path.stat().st_mtime_ns == stamp
    others = {
        prepare(MADE.model_copy(update={"seed": 1}), Clients()),
        prepare(MADE.model_copy(update={"k_core": 2}), Clients()),
        prepare(MADE, Clients(by="random", count=3)),
        prepare(MADE, Clients(by="random", count=3, seed=1)),
        prepare(Synthetic.model_validate({**dict(MADE), "split": {"seed": 1}}), Clients()),
    }
    assert len(others | {path}) == 6


@pytest.mark.parametrize("damage", ["flip", "cut", "other", "empty"])
def test_a_damaged_entry_is_made_anew(damage: str) -> None:
    path = prepare(MADE, Clients())
    good, content = bits(open_split(path)), path.read_bytes()
    damaged = {
        "flip": content[:-8] + bytes([content[-8] ^ 1]) + content[-7:],
        "cut": content[:-8],
        "other": b"text",
        "empty": b"",
    }
    path.write_bytes(damaged[damage])
    assert prepare(MADE, Clients()) == path
    assert bits(open_split(path)) == good
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [None, b"", b"text", b"{}" * 100])
def test_what_is_no_split_is_not_opened(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "split"
    if content is not None:
        path.write_bytes(content)
    for read in (open_split, version_of):
        with pytest.raises(RunFolderError, match=r"split: is (missing|damaged)"):
            read(path)


def test_a_user_with_the_whole_catalogue_is_refused_from_the_cache_too() -> None:
    class Two(Synthetic):
        """User 0 has all four items, of which two are held out."""

        def load(self) -> Interactions:
            return Interactions(
                users=np.array([0, 0, 0, 0, 1, 1, 1]),
                items=np.array([0, 1, 2, 3, 0, 1, 2]),
                ratings=None,
                timestamps=None,
                user_ids=np.array(["ann", "bob"]),
                item_ids=np.array(["w", "x", "y", "z"]),
            )

    for protocol in ("clean", "legacy"):
        data = Two.model_validate({"protocol": protocol})
        if protocol == "clean":
            prepare(data, Clients())
            continue
        with pytest.raises(DataError, match="user 'ann' has all 4 items"):
            prepare(data, Clients())
        with pytest.raises(DataError, match="user 'ann' has all 4 items"):
            split_of(data, Clients())


def _prepare(cache: str, users: int) -> str:
    os.environ["FEDREC_CACHE"] = cache
    path = prepare(Synthetic(users=users), Clients(by="random", count=5))
    assert open_split(path).n_users == users
    return str(path)


@pytest.mark.slow
def test_processes_that_prepare_the_same_at_once(cache: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        places = pool.starmap(_prepare, [(str(cache), 3000)] * 6)
    assert len(set(places)) == 1
    assert len(list((cache / "prepared").iterdir())) == 1


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert cache_folder() == cache
    monkeypatch.delenv("FEDREC_CACHE")
    assert cache_folder().name == "fedrec"


def test_a_cache_that_cannot_be_written_names_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("FEDREC_CACHE", str(file))
    with pytest.raises(DataError, match=r"cannot be written .*set FEDREC_CACHE"):
        prepare(MADE, Clients())


class Empty(Synthetic):
    """A data set of somebody's own that forgets to return what it read."""

    def load(self) -> Any:
        return None


def test_a_data_set_that_returns_something_else_is_named() -> None:
    with pytest.raises(DataError, match="load of Empty returned NoneType, expected"):
        split_of(Empty(users=30, items=40), Clients())
