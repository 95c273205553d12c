"""The local state: a round is staged, then taken or dropped, whatever dies in between."""

import json
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.state_store import StateStore
from fedrec.errors import ProtocolError, RunFolderError
from fedrec.training.initial_values import initial_local
from fedrec.types import FloatArray, IntArray, ParamSpec

SPECS = {
    "user": ParamSpec("private", "user", (3,), init_std=1.0),
    "user/first": ParamSpec("private", "user", (3,)),
    "bias": ParamSpec("private", "client", (), init_value=0.5),
    "residual": ParamSpec("private", "positive", (2,)),
}
OWNERS = {"user": np.arange(10, 16), "client": np.arange(4), "positive": np.arange(9)}
EVERYBODY = {per: np.arange(len(ids), dtype=np.int64) for per, ids in OWNERS.items()}
SOME = {"user": np.array([1, 4]), "client": np.array([2]), "positive": np.array([0, 8])}


def initial(name: str, owners: IntArray, seed: int = 0) -> FloatArray:
    return initial_local(seed, name, SPECS[name], owners)


def opened(folder: Path, seed: int = 0) -> StateStore:
    store = StateStore(folder / "node", SPECS, OWNERS, partial(initial, seed=seed))
    if not (folder / "node").exists():
        store.settle(0)
    return store


def committed(store: StateStore) -> int:
    """The last round that is in the arrays and changed these clients."""
    return int(json.loads((store._folder / "committed.json").read_text())["round"])


def values(at: dict[str, IntArray], fill: float) -> dict[str, FloatArray]:
    return {
        name: np.full((len(at[spec.axis or ""]), *spec.shape), fill, np.float32)
        for name, spec in SPECS.items()
    }


def raw(store: StateStore) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in store.get(EVERYBODY).items()}


def test_first_values_are_those_of_the_seed(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert committed(store) == 0
    values = store.get(EVERYBODY)
    assert {name: value.shape for name, value in values.items()} == {
        "user": (6, 3),
        "user/first": (6, 3),
        "bias": (4,),
        "residual": (9, 2),
    }
    assert (values["bias"] == 0.5).all()
    assert len(np.unique(values["user"])) == 18
    again, other = opened(tmp_path / "again"), opened(tmp_path / "other", seed=1)
    assert raw(again) == raw(store)
    assert raw(other) != raw(store)


def test_a_user_begins_alike_on_any_node(tmp_path: Path) -> None:
    part = StateStore(tmp_path / "p", SPECS, {**OWNERS, "user": np.array([13])}, initial)
    part.settle(0)
    at = {**EVERYBODY, "user": np.array([0])}
    assert np.array_equal(part.get(at)["user"][0], opened(tmp_path).get(EVERYBODY)["user"][3])


def test_what_is_staged_is_seen_only_when_it_is_taken(tmp_path: Path) -> None:
    store = opened(tmp_path)
    before = store.get(EVERYBODY)
    store.stage(1, SOME, values(SOME, 7.0))
    assert raw(store) == {name: value.tobytes() for name, value in before.items()}
    store.settle(1)
    after = store.get(EVERYBODY)
    for name, spec in SPECS.items():
        at = SOME[spec.axis or ""]
        assert (after[name][at] == 7.0).all()
        others = np.setdiff1d(EVERYBODY[spec.axis or ""], at)
        assert np.array_equal(after[name][others], before[name][others])
    assert committed(store) == 1


def test_what_the_server_did_not_take_is_dropped(tmp_path: Path) -> None:
    store = opened(tmp_path)
    before = raw(store)
    store.stage(1, SOME, values(SOME, 7.0))
    store.settle(0)
    store.settle(1)
    assert raw(store) == before
    assert committed(store) == 0


def test_the_last_of_two_stagings_counts(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.stage(1, EVERYBODY, values(EVERYBODY, 7.0))
    store.stage(1, SOME, values(SOME, 8.0))
    store.settle(1)
    assert not (store.get(EVERYBODY)["user"] == 7.0).any()


def test_settling_twice_is_settling_once(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.stage(3, SOME, values(SOME, 7.0))
    store.settle(3)
    once = raw(store)
    store.settle(3)
    store.settle(5)
    assert raw(store) == once
    assert committed(store) == 3


def test_a_state_ahead_of_the_server_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.stage(3, SOME, values(SOME, 7.0))
    store.settle(3)
    with pytest.raises(
        ProtocolError, match="state is of round 3, the server's of round 2; start the run"
    ):
        store.settle(2)


def test_what_was_taken_outlives_the_process(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.stage(1, SOME, values(SOME, 7.0))
    store.settle(1)
    store.stage(2, SOME, values(SOME, 9.0))
    another = opened(tmp_path, seed=5)
    assert raw(another) == raw(store)
    another.settle(2)
    assert (another.get(SOME)["user"] == 9.0).all()


def test_a_death_in_the_middle_of_taking_is_made_good(tmp_path: Path) -> None:
    """Before the mark is written, the staged file is still there: it is taken again."""
    store = opened(tmp_path)
    store.stage(1, SOME, values(SOME, 7.0))
    shutil.copytree(tmp_path / "node", tmp_path / "dead" / "node")
    store.settle(1)
    # Dead after one of the arrays: that one holds the new values, the mark says round 0.
    user = np.load(tmp_path / "dead" / "node" / "user.npy", mmap_mode="r+")
    user[SOME["user"]] = 7.0
    user.flush()
    revived = opened(tmp_path / "dead")
    assert committed(revived) == 0
    revived.settle(1)
    assert raw(revived) == raw(store)


def test_a_death_after_the_mark_changes_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.stage(1, SOME, values(SOME, 7.0))
    staged = (tmp_path / "node" / "staged@1@0.safetensors").read_bytes()
    store.settle(1)
    (tmp_path / "node" / "staged@1@0.safetensors").write_bytes(staged)
    once = raw(store)
    opened(tmp_path).settle(1)
    assert raw(opened(tmp_path)) == once


OTHERS = {"user": np.array([0, 2]), "client": np.array([0, 3]), "positive": np.array([1, 2])}


def test_parts_of_a_round_are_staged_one_by_one_and_taken_together(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.stage(1, SOME, values(SOME, 7.0), cut="0")
    store.stage(1, OTHERS, values(OTHERS, 8.0), cut="1")
    assert committed(store) == 0
    store.settle(1)
    user_values = store.get(EVERYBODY)["user"]
    assert (user_values[SOME["user"]] == 7.0).all()
    assert (user_values[OTHERS["user"]] == 8.0).all()
    assert committed(store) == 1
    assert not list((tmp_path / "node").glob("staged*"))


def test_a_round_that_is_repeated_drops_every_part(tmp_path: Path) -> None:
    store = opened(tmp_path)
    before = store.get(SOME)["user"]
    store.stage(1, SOME, values(SOME, 7.0), cut="0")
    store.stage(1, OTHERS, values(OTHERS, 7.0), cut="1")
    store.settle(0)  # with the message that comes again
    store.stage(1, OTHERS, values(OTHERS, 9.0), cut="0")
    store.settle(1)
    assert (store.get(SOME)["user"] == before).all()
    assert (store.get(OTHERS)["user"] == 9.0).all()


def test_a_death_between_two_parts_is_made_good(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.stage(1, SOME, values(SOME, 7.0), cut="0")
    store.stage(1, OTHERS, values(OTHERS, 8.0), cut="1")
    shutil.copytree(tmp_path / "node", tmp_path / "dead" / "node")
    store.settle(1)
    # Dead after the mark, before the files went: they are removed.
    for path in (tmp_path / "node").iterdir():
        shutil.copy(path, tmp_path / "dead" / "node")
    revived = opened(tmp_path / "dead")
    assert revived.verify(1) == store.verify(1)
    revived.settle(1)
    assert raw(revived) == raw(store)
    assert revived.verify(1) == store.verify(1)
    assert not list((tmp_path / "dead" / "node").glob("staged*"))


# What is missing or damaged ------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    steps=st.lists(st.sets(st.integers(0, 5), min_size=1), max_size=4),
    commits=st.booleans(),
    data=st.data(),
)
def test_every_bit_of_the_state_is_checked_and_the_checksum_is_known_before(
    steps: list[set[int]],
    commits: bool,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The server adds the changes up; a restart reads the same from the files."""
    folder = tmp_path_factory.mktemp("state")
    store = opened(folder)
    round, expected = store.verify(0)
    for number, users in enumerate(steps, 1):
        store.settle(number - 1)
        at = {**SOME, "user": np.array(sorted(users))}
        drawn = {
            name: np.random.default_rng(number).random(value.shape).astype(np.float32)
            for name, value in values(at, 0.0).items()
        }
        change = store.stage(number, at, drawn)
        round, expected = number, (expected + change) % 2**64
    if commits:
        store.settle(len(steps))
    assert opened(folder).verify(len(steps)) == (round, expected)
    files = sorted((folder / "node").glob("*.npy" if commits else "*"))
    path = files[data.draw(st.integers(0, len(files) - 1))]
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(len(content) // 2, len(content) - 1))] ^= 1 << data.draw(
        st.integers(0, 7)
    )
    path.write_bytes(content)
    try:
        read = opened(folder).verify(len(steps))
    except RunFolderError as error:
        assert "damaged" in str(error)
    else:  # committed.json, whose values the checkpoint of the server is compared with, or padding
        assert read != (round, expected) or path.name == "committed.json" or 0 in content[:128]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "is damaged"),
        (lambda path: path.write_bytes(b""), "is damaged"),
        (lambda path: (path.unlink(), path.mkdir()), "is damaged"),
        (lambda path: path.write_bytes(pickle.dumps([1])), "not an array of numbers"),
        (lambda path: np.save(path, np.array([{}]), allow_pickle=True), "not an array of numbers"),
        (lambda path: np.save(path, np.zeros((6, 2), np.float32)), r"float32 \[6, 2\]"),
        (lambda path: np.save(path, np.zeros((5, 3), np.float32)), r"float32 \[5, 3\]"),
        (lambda path: np.save(path, np.zeros((6, 3))), r"float64 \[6, 3\]"),
        (lambda path: np.save(path, np.zeros((6, 3), np.float32)), "checksum does not match"),
    ],
)
def test_a_damaged_file_is_named(
    spoil: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    opened(tmp_path)
    spoil(tmp_path / "node" / "user.npy")
    with pytest.raises(RunFolderError, match=rf"node/user\.npy: .*{said}.*--overwrite") as caught:
        opened(tmp_path).verify(0)
    assert "\n" not in str(caught.value)


def test_a_state_that_is_gone_is_not_made_anew_in_the_middle_of_a_run(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "node", SPECS, OWNERS, initial)
    for ask in (store.verify, store.settle):
        with pytest.raises(RunFolderError, match=r"node: the private state .* is missing"):
            ask(3)
    assert not (tmp_path / "node").exists()


@settings(max_examples=20, deadline=None)
@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=8))
def test_it_is_the_fold_of_the_rounds_that_were_taken(
    steps: list[tuple[bool, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = opened(tmp_path_factory.mktemp("state"))
    expected = store.get(EVERYBODY)["user"]
    committed = 0
    for number, (taken, user) in enumerate(steps, 1):
        store.settle(committed)
        at = {**SOME, "user": np.array([user])}
        store.stage(number, at, values(at, float(number)))
        if taken:
            committed = number
            expected[user] = number
    store.settle(committed)
    assert np.array_equal(store.get(EVERYBODY)["user"], expected)
