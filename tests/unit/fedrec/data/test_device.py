import logging
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data import DataSet, Sqlite
from fedrec.data.clients import Clients
from fedrec.data.device import device_file, device_split, needs_others, reader_of
from fedrec.data.prepare import split_of
from fedrec.data.split import select
from fedrec.errors import ConfigError, DataError
from fedrec.types import Interactions, Split
from tests.own_files import COLUMNS, csv
from tests.unit.fedrec.data.test_split import data_sets


class Rows(DataSet):
    """Interactions that a test gives."""

    def load(self) -> Interactions:
        raise NotImplementedError

    def fingerprint(self) -> str:
        return ""


def of_user(split: Split, user: str) -> dict[str, Any]:
    at = int(np.flatnonzero(split.user_ids == user)[0])
    rows = split.train.positions(np.array([at]))
    held = {name: getattr(split, name).row(at).tolist() for name in ("train", "valid", "test")}
    times = None if split.timestamps is None else split.timestamps[rows].tolist()
    return {**held, "times": times}


@settings(max_examples=60, deadline=None)
@given(
    data_sets(least=1),
    st.sampled_from(["leave_one_out", "ratio"]),
    st.integers(0, 3),
    st.sampled_from(["train_only", "drop"]),
    st.data(),
)
def test_devices_split_as_one_place_splits_the_data_of_all(
    data: Interactions, method: str, seed: int, short: str, draw: st.DataObject
) -> None:
    class All(Rows):
        def load(self) -> Interactions:
            return data

    options = All.model_validate({"split": {"name": method, "seed": seed}, "short_users": short})
    try:
        together = split_of(options, Clients())
    except DataError:
        return
    owner = draw.draw(
        st.lists(st.integers(0, 2), min_size=len(data.user_ids), max_size=len(data.user_ids))
    )
    users = set[str]()
    for device in set(owner):
        of_device = np.isin(data.users, np.flatnonzero(np.array(owner) == device))
        try:
            split = device_split(select(data, of_device), together.item_ids, options)
        except DataError:
            continue
        assert split.item_ids.tolist() == together.item_ids.tolist()
        for user in split.user_ids.tolist():
            assert of_user(split, user) == of_user(together, user)
            users.add(user)
    assert users == set(together.user_ids.tolist())


def test_unknown_items_are_left_out_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    data = csv("user,item,rating,time\n" + "".join(f"7,i{n},1,{n}\n" for n in range(6))).load()
    with caplog.at_level(logging.WARNING, "fedrec"):
        split = device_split(data, np.array(["a", "i1", "i2", "i3"], object), Rows())
    assert "3 of 6 interactions" in caplog.text and "'i0', 'i4', 'i5'" in caplog.text
    assert split.n_items == 4 and split.train.values.tolist() == [1]
    assert split.valid.values.tolist() == [2] and split.test.values.tolist() == [3]


def test_a_file_of_other_items_is_refused() -> None:
    data = csv("user,item,rating,time\n7,x,1,1\n7,y,1,2\n7,z,1,3\n").load()
    with pytest.raises(DataError, match=r"such as 'x'.*such as 'a'"):
        device_split(data, np.array(["a", "b"], object), Rows())


@pytest.mark.parametrize(
    ("data", "clients", "named"),
    [
        ({"k_core": 5}, {}, "k_core"),
        ({"split": "temporal"}, {}, "temporal"),
        ({"split": {"cold_items": 0.1}}, {}, "cold_items"),
        ({"split": {"users": 3}}, {}, "split.users"),
        ({}, {"by": "random", "count": 2}, "clients.by"),
    ],
)
def test_what_looks_at_the_data_of_others_is_named(
    data: dict[str, Any], clients: dict[str, Any], named: str
) -> None:
    [line] = needs_others(Rows.model_validate(data), Clients.model_validate(clients))
    assert named in line
    assert not needs_others(Rows(), Clients())


def database(folder: Path, name: str = "app.db") -> Path:
    path = folder / name
    with closing(sqlite3.connect(path)) as file:
        file.execute('CREATE TABLE "the log" (user, item, rating, time)')
        rows = [("ann", f"i{n}", 1.0, n) for n in range(5)]
        file.executemany('INSERT INTO "the log" VALUES (?, ?, ?, ?)', rows)
        file.commit()
    return path


def sqlite(path: Path, **options: Any) -> DataSet:
    return device_file({**reader_of(path), "table": "the log", "columns": COLUMNS, **options})


def test_a_table_of_sqlite_is_read_as_text_is(tmp_path: Path) -> None:
    data = sqlite(database(tmp_path)).load()
    text = "user,item,rating,time\n" + "".join(f"ann,i{n},1.0,{n}\n" for n in range(5))
    expected = csv(text).load()
    for field in ("users", "items", "ratings", "timestamps", "user_ids", "item_ids"):
        assert getattr(data, field).tolist() == getattr(expected, field).tolist()


def test_a_database_is_read_at_one_moment_while_an_app_writes(tmp_path: Path) -> None:
    path, stop = database(tmp_path), threading.Event()
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA journal_mode=WAL")

    def write() -> None:
        with closing(sqlite3.connect(path)) as app:
            number = 5
            while not stop.is_set():  # two rows at a time: an odd number was never there
                rows = [("ann", f"i{number + n}", 1.0, number + n) for n in range(2)]
                app.executemany('INSERT INTO "the log" VALUES (?, ?, ?, ?)', rows)
                app.commit()
                number += 2

    app = threading.Thread(target=write)
    app.start()
    try:
        sizes = [len(sqlite(path).load()) for _ in range(20)]
    finally:
        stop.set()
        app.join()
    assert all(size % 2 == 1 for size in sizes) and sizes == sorted(sizes)


def test_the_fingerprint_of_a_database_is_of_its_rows(tmp_path: Path) -> None:
    first, second = database(tmp_path), database(tmp_path, "other.db")
    with closing(sqlite3.connect(second)) as file:
        file.execute("CREATE TABLE other (x)")
        file.commit()
    assert sqlite(first).fingerprint() == sqlite(second).fingerprint()
    with closing(sqlite3.connect(second)) as file:
        file.execute('INSERT INTO "the log" VALUES (?, ?, ?, ?)', ("ann", "i9", 1.0, 9))
        file.commit()
    assert sqlite(first).fingerprint() != sqlite(second).fingerprint()


def test_what_is_wrong_with_a_database_is_said(tmp_path: Path) -> None:
    path = database(tmp_path)
    with pytest.raises(DataError, match=r"no table 'log'.*data\.table"):
        sqlite(path, table="log").load()
    with pytest.raises(DataError, match="no column 'film'"):
        sqlite(path, columns={"user": "user", "item": "film"}).load()
    (tmp_path / "text.db").write_text("user,item\n" * 200)
    with pytest.raises(DataError, match="not a readable SQLite database"):
        sqlite(tmp_path / "text.db").load()
    with pytest.raises(DataError, match="no such file"):
        Sqlite(path=tmp_path / "none.db").load()


def test_a_section_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not in the table of data"):
        device_file({"name": "cvs", "path": tmp_path})


def test_splits_with_no_interaction_left_are_refused() -> None:
    data = csv("user,item,rating,time\n7,a,1,1\n").load()
    with pytest.raises(DataError, match="nothing to train on"):
        device_split(data, np.array(["a", "b"], object), Rows(short_users="drop"))
    kept = device_split(data, np.array(["a", "b"], object), Rows(short_users="train_only"))
    assert kept.train.values.tolist() == [0] and not len(kept.test.values)
