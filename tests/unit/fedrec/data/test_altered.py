"""Data that attackers altered: what is theirs changes, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.compute.context import RoundContext
from fedrec.data.altered import of_clients, with_clients, with_train_items
from fedrec.data.split import check_split
from fedrec.errors import ConfigError
from fedrec.testing.trial import as_bytes, small_split
from fedrec.transforms.attacks.base import Attack
from fedrec.transforms.attacks.label_flip import LabelFlip
from fedrec.transforms.attacks.pipattack import PipAttack
from fedrec.transforms.attacks.shilling import PopularShilling, RandomShilling
from fedrec.types import Split
from tests.planted import ragged

TARGETS = np.array([3, 20])


def full_split(names: str = "u") -> Split:
    """A split with everything that a split may have, and several users in a client."""
    split = small_split()
    n, n_users = len(split.train.values), split.n_users
    return replace(
        split,
        ratings=np.random.default_rng(0).integers(1, 6, n).astype(np.float64),
        timestamps=np.arange(n) + 0.5,
        user_ids=np.array([f"{names}-{number}" for number in range(n_users)], object),
        user_columns={"age": np.array([str(20 + user) for user in range(n_users)], object)},
    )


def altered(attack: Attack, split: Split, seed: int = 0) -> Split:
    context = RoundContext(seed, 0, split.n_clients, split.n_items, targets=TARGETS)
    after = attack.on_data(split, context)
    check_split(after)
    return after


def columns(split: Split, user: int) -> dict[int, tuple[float, float]]:
    """Rating and time of each train item of a user."""
    rows = slice(*split.train.offsets[user : user + 2])
    assert split.ratings is not None and split.timestamps is not None
    pairs = zip(split.ratings[rows], split.timestamps[rows], strict=True)
    return dict(zip(split.train.values[rows].tolist(), pairs, strict=True))


@given(st.integers(0, 5), st.floats(0.05, 0.9), st.booleans())
def test_added_clients_stand_behind_the_honest(seed: int, share: float, popular: bool) -> None:
    split = full_split()
    attack = (PopularShilling if popular else RandomShilling)(share=share, rows=16)
    after = altered(attack, split, seed)
    honest = np.arange(split.n_clients)
    assert as_bytes(of_clients(after, honest)) == as_bytes(of_clients(split, honest))
    added = np.arange(split.n_clients, after.n_clients)
    context = RoundContext(seed, 4, after.n_clients, after.n_items)
    assert np.array_equal(attack.attackers(context), added)
    users = after.clients.take(added).values
    assert len(set(after.user_ids.tolist())) == after.n_users == split.n_users + len(added)
    for user in users.tolist():
        items = after.train.row(user)
        assert len(items) == 8 and set(TARGETS) <= {*items.tolist()}
        assert not len(after.valid.row(user)) and not len(after.test.row(user))
        assert after.user_columns["age"][user] in split.user_columns["age"].tolist()
    if popular:
        counts = np.delete(split.train_counts(), TARGETS)
        others = np.setdiff1d(after.train.row(users[0]), TARGETS)
        assert split.train_counts()[others].sum() == np.sort(counts)[::-1][:6].sum()


def test_raw_ids_never_collide() -> None:
    split = full_split("attacker")
    after = with_clients(split, ragged([[1, 2], [5]]), np.array([0, 3]), "attacker")
    assert after.user_ids[-2:].tolist() == ["_attacker-1", "_attacker-2"]
    assert len({*after.user_ids.tolist()}) == after.n_users


@pytest.mark.parametrize("rows", [2, 100])
def test_a_profile_that_does_not_fit_is_refused(rows: int) -> None:
    with pytest.raises(ConfigError, match=f"rows: {rows} .* change rows"):
        altered(RandomShilling(rows=rows), full_split())


@pytest.mark.parametrize("attack", [LabelFlip(share=0.3), PipAttack(share=0.3)])
def test_converted_clients_alone_have_other_items(attack: Attack) -> None:
    split = full_split()
    after = altered(attack, split)
    context = RoundContext(0, 0, split.n_clients, split.n_items)
    honest = np.setdiff1d(np.arange(split.n_clients), attack.attackers(context))
    assert as_bytes(of_clients(after, honest)) == as_bytes(of_clients(split, honest))
    for user in split.clients.take(attack.attackers(context)).values.tolist():
        before, now = columns(split, user), columns(after, user)
        assert not len(after.valid.row(user)) and not len(after.test.row(user))
        if isinstance(attack, LabelFlip):
            assert not before.keys() & now.keys() and len(before) == len(now)
            assert sorted(before.values()) == sorted(now.values())
        else:
            assert now.keys() == before.keys() | {*TARGETS.tolist()}
            assert {item: now[item] for item in before} == before


def test_all_items_but_a_few_leave_as_many_as_there_are() -> None:
    split = full_split()
    user, items = np.array([4]), [np.arange(3)]
    after = with_train_items(split, user, items, [split.train.offsets[4] + np.arange(3)])
    assert after.train.row(4).tolist() == [0, 1, 2]
    assert len(after.train.values) == len(after.ratings if after.ratings is not None else ())


def test_the_data_of_some_clients_is_theirs() -> None:
    split = full_split()
    some = of_clients(split, np.array([1, 4, 7]))
    users = split.clients.take(np.array([1, 4, 7]))
    assert some.clients.lengths.tolist() == users.lengths.tolist()
    assert some.user_ids.tolist() == split.user_ids[users.values].tolist()
    assert [columns(some, at) for at in range(some.n_users)] == [
        columns(split, user) for user in users.values.tolist()
    ]
    check_split(some)
