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
        store.commit(())
    return store


def settle(store: StateStore, *rounds: int) -> None:
    """Commits what was applied, and drops the rest, as before training."""
    store.commit([(round, 1) for round in rounds])
    store.discard((), (99, 1))


def committed(store: StateStore) -> int:
    """The last round that is in the arrays and changed these clients."""
    applied = json.loads((store._folder / "committed.json").read_text())["applied"]
    return max((round for round, _ in applied), default=0)


def staged_and_applied(store: StateStore, *rounds: int) -> int | None:
    """The checksum of the state once some rounds are applied."""
    return store.verify(bool(rounds)).checksum_with([(round, 1) for round in rounds])


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
    settle(part)
    at = {**EVERYBODY, "user": np.array([0])}
    assert np.array_equal(part.get(at)["user"][0], opened(tmp_path).get(EVERYBODY)["user"][3])


def test_what_is_staged_is_seen_only_when_it_is_taken(tmp_path: Path) -> None:
    store = opened(tmp_path)
    before = store.get(EVERYBODY)
    store.stage((1, 1), SOME, values(SOME, 7.0))
    assert raw(store) == {name: value.tobytes() for name, value in before.items()}
    settle(store, 1)
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
    store.stage((1, 1), SOME, values(SOME, 7.0))
    settle(store)
    assert raw(store) == before
    assert committed(store) == 0
    with pytest.raises(RunFolderError, match="learnt in round 1 is missing; put the file back"):
        settle(store, 1)
    assert raw(store) == before


def test_the_last_of_two_stagings_counts(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.stage((1, 1), EVERYBODY, values(EVERYBODY, 7.0))
    store.stage((1, 1), SOME, values(SOME, 8.0))
    settle(store, 1)
    assert not (store.get(EVERYBODY)["user"] == 7.0).any()


def test_settling_twice_is_settling_once(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.stage((3, 1), SOME, values(SOME, 7.0))
    settle(store, 3)
    once = raw(store)
    assert raw(store) == once
    assert committed(store) == 3


def test_a_state_ahead_of_the_server_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.stage((3, 1), SOME, values(SOME, 7.0))
    settle(store, 3)
    with pytest.raises(
        ProtocolError, match="state is of round 3, the server's of round 2: the req"
    ):
        settle(store, 2)


def test_what_was_taken_outlives_the_process(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.stage((1, 1), SOME, values(SOME, 7.0))
    settle(store, 1)
    store.stage((2, 1), SOME, values(SOME, 9.0))
    another = opened(tmp_path, seed=5)
    assert raw(another) == raw(store)
    settle(another, 2)
    assert (another.get(SOME)["user"] == 9.0).all()


def test_a_death_in_the_middle_of_taking_is_made_good(tmp_path: Path) -> None:
    """Before the mark is written, the staged file is still there: it is taken again."""
    store = opened(tmp_path)
    store.stage((1, 1), SOME, values(SOME, 7.0))
    shutil.copytree(tmp_path / "node", tmp_path / "dead" / "node")
    settle(store, 1)
    # Dead after one of the arrays: that one holds the new values, the mark says round 0.
    user = np.load(tmp_path / "dead" / "node" / "user.npy", mmap_mode="r+")
    user[SOME["user"]] = 7.0
    user.flush()
    revived = opened(tmp_path / "dead")
    assert committed(revived) == 0
    settle(revived, 1)
    assert raw(revived) == raw(store)


def test_a_death_after_the_mark_changes_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.stage((1, 1), SOME, values(SOME, 7.0))
    staged = (tmp_path / "node" / "staged@1@1@0.safetensors").read_bytes()
    settle(store, 1)
    (tmp_path / "node" / "staged@1@1@0.safetensors").write_bytes(staged)
    once = raw(store)
    settle(opened(tmp_path), 1)
    assert raw(opened(tmp_path)) == once


OTHERS = {"user": np.array([0, 2]), "client": np.array([0, 3]), "positive": np.array([1, 2])}


def test_parts_of_a_round_are_staged_one_by_one_and_taken_together(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.stage((1, 1), SOME, values(SOME, 7.0), cut="0")
    store.stage((1, 1), OTHERS, values(OTHERS, 8.0), cut="1")
    assert committed(store) == 0
    settle(store, 1)
    user_values = store.get(EVERYBODY)["user"]
    assert (user_values[SOME["user"]] == 7.0).all()
    assert (user_values[OTHERS["user"]] == 8.0).all()
    assert committed(store) == 1
    assert not list((tmp_path / "node").glob("staged*"))


def test_a_round_that_is_repeated_drops_every_part(tmp_path: Path) -> None:
    store = opened(tmp_path)
    before = store.get(SOME)["user"]
    store.stage((1, 1), SOME, values(SOME, 7.0), cut="0")
    store.stage((1, 1), OTHERS, values(OTHERS, 7.0), cut="1")
    settle(store)  # with the message that comes again
    store.stage((1, 1), OTHERS, values(OTHERS, 9.0), cut="0")
    settle(store, 1)
    assert (store.get(SOME)["user"] == before).all()
    assert (store.get(OTHERS)["user"] == 9.0).all()


def test_a_death_between_two_parts_is_made_good(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.stage((1, 1), SOME, values(SOME, 7.0), cut="0")
    store.stage((1, 1), OTHERS, values(OTHERS, 8.0), cut="1")
    shutil.copytree(tmp_path / "node", tmp_path / "dead" / "node")
    settle(store, 1)
    # Dead after the mark, before the files went: they are removed.
    for path in (tmp_path / "node").iterdir():
        shutil.copy(path, tmp_path / "dead" / "node")
    revived = opened(tmp_path / "dead")
    assert revived.verify(True) == store.verify(True)
    settle(revived, 1)
    assert raw(revived) == raw(store)
    assert revived.verify(True) == store.verify(True)
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
    expected = store.verify(False).checksum
    for number, users in enumerate(steps, 1):
        settle(store, *range(max(number - 1, 1), number))
        at = {**SOME, "user": np.array(sorted(users))}
        drawn = {
            name: np.random.default_rng(number).random(value.shape).astype(np.float32)
            for name, value in values(at, 0.0).items()
        }
        change = store.stage((number, 1), at, drawn)
        expected = (expected + change) % 2**64
    last = [len(steps)] if steps else []
    if commits:
        settle(store, *last)
    assert staged_and_applied(opened(folder), *last) == expected
    files = sorted((folder / "node").glob("*.npy" if commits else "*"))
    path = files[data.draw(st.integers(0, len(files) - 1))]
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(len(content) // 2, len(content) - 1))] ^= 1 << data.draw(
        st.integers(0, 7)
    )
    path.write_bytes(content)
    try:
        read = staged_and_applied(opened(folder), *last)
    except RunFolderError as error:
        assert "damaged" in str(error)
    else:  # committed.json, whose values the checkpoint of the server is compared with, or padding
        assert read != expected or path.name == "committed.json" or 0 in content[:128]


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
        opened(tmp_path).verify(False)
    assert "\n" not in str(caught.value)


def test_a_state_that_is_gone_is_not_made_anew_in_the_middle_of_a_run(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "node", SPECS, OWNERS, initial)
    for ask in (lambda: store.verify(True), lambda: store.commit([(3, 1)])):
        with pytest.raises(RunFolderError, match=r"node: the private state .* is missing"):
            ask()
    assert not (tmp_path / "node").exists()


@settings(max_examples=20, deadline=None)
@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=8))
def test_it_is_the_fold_of_the_rounds_that_were_taken(
    steps: list[tuple[bool, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = opened(tmp_path_factory.mktemp("state"))
    expected = store.get(EVERYBODY)["user"]
    committed: list[int] = []
    for number, (taken, user) in enumerate(steps, 1):
        settle(store, *committed)
        at = {**SOME, "user": np.array([user])}
        store.stage((number, 1), at, values(at, float(number)))
        if taken:
            committed = [number]
            expected[user] = number
    settle(store, *committed)
    assert np.array_equal(store.get(EVERYBODY)["user"], expected)


def test_a_repeated_request_changes_nothing_and_an_old_one_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for _ in range(2):  # the same request, delivered twice
        store.discard((), (1, 1))
        store.stage((1, 1), SOME, values(SOME, 7.0))
    store.discard(((1, 1),), (1, 2))
    store.stage((1, 2), OTHERS, values(OTHERS, 8.0))
    before = store.verify(False)
    with pytest.raises(ProtocolError, match="a request of round 1 came again after a later one"):
        store.discard((), (1, 1))
    assert store.verify(False) == before
    store.commit([(1, 2)])
    assert (store.get(OTHERS)["user"] == 8.0).all()
    assert not (store.get(SOME)["user"] == 7.0).any()


def test_requests_that_were_pending_are_committed_when_the_server_says_so(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.stage((1, 1), SOME, values(SOME, 7.0))
    store.discard([(1, 1)], (2, 1))
    store.stage((2, 1), OTHERS, values(OTHERS, 8.0))
    expected = store.verify(False).checksum_with([(1, 1), (2, 1)])
    store.commit([(1, 1), (2, 1)])
    store.commit([(1, 1), (2, 1)])
    assert (store.get(SOME)["user"] == 7.0).all()
    assert (store.get(OTHERS)["user"] == 8.0).all()
    assert store.verify(True).checksum == expected


def test_a_client_that_was_away_for_a_hundred_rounds_finds_its_state(tmp_path: Path) -> None:
    """Its node was asked last in round 1; what it staged then is applied when it is asked again."""
    store = opened(tmp_path)
    store.stage((1, 1), SOME, values(SOME, 7.0))
    store.commit([(1, 1)])
    store.discard((), (101, 1))
    store.stage((101, 1), SOME, values(SOME, 9.0))
    store.commit([(101, 1)])
    assert (store.get(SOME)["user"] == 9.0).all()


def test_a_state_of_another_version_is_refused_with_the_way_out(tmp_path: Path) -> None:
    mark = opened(tmp_path)._folder / "committed.json"
    mark.write_text(json.dumps({"round": 3, "checksums": {}}), encoding="utf-8")
    with pytest.raises(RunFolderError, match="is of version None, expected 2; continue with"):
        opened(tmp_path).commit([(3, 1)])
