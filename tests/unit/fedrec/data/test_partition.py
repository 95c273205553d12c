import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data import SplitBy, Synthetic
from fedrec.data.clients import Clients, assign_clients, clients_of, taste_groups
from fedrec.data.prepare import split_of
from fedrec.data.split import TEST, hold_out
from fedrec.errors import ConfigError, MissingExtra
from fedrec.ragged import Ragged
from fedrec.types import Interactions, Split

PLANTED = Synthetic(users=120, items=60, taste_groups=4, rank=4, sharpness=3, noise=0.02)


@pytest.fixture(scope="module")
def planted() -> tuple[Interactions, Split]:
    return PLANTED.load(), split_of(PLANTED, Clients())


def check_partition(clients: Ragged, n_users: int) -> None:
    assert sorted(clients.values.tolist()) == list(range(n_users))
    assert (clients.lengths > 0).all()
    assert all((np.diff(clients.row(k)) > 0).all() for k in range(len(clients)))
    smallest = [int(clients.row(k)[0]) for k in range(len(clients))]
    assert smallest == sorted(smallest)


# A fixed-width array drops NUL at the end of a text; ids with NUL are refused when read.
labels_of_users = st.lists(st.text(st.characters(exclude_characters="\0"), max_size=2), min_size=1)


@given(labels_of_users)
def test_clients_are_total_disjoint_and_numbered_by_their_smallest_user(labels: list[str]) -> None:
    clients = clients_of(np.array(labels, np.str_))
    check_partition(clients, len(labels))
    assert len(clients) == len(set(labels))
    for client in range(len(clients)):
        assert len({labels[user] for user in clients.row(client).tolist()}) == 1


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["random", "taste"]), st.integers(1, 120), st.integers(0, 5))
def test_groups_are_as_many_as_asked_for_and_stable(by: str, count: int, seed: int) -> None:
    data, split = PLANTED.load(), split_of(PLANTED, Clients())
    section = Clients.model_validate({"by": by, "count": count, "seed": seed})
    clients = assign_clients(data, split.train, section)
    check_partition(clients, 120)
    assert len(clients) == count
    again = assign_clients(data, split.train, section)
    assert (again.values == clients.values).all()
    assert (again.offsets == clients.offsets).all()
    if by == "random":
        assert np.ptp(clients.lengths) <= 1


def test_by_user_is_the_identity_and_by_column_the_column(
    planted: tuple[Interactions, Split],
) -> None:
    data, split = planted
    alone = assign_clients(data, split.train, Clients())
    assert alone.values.tolist() == list(range(120))
    assert (alone.lengths == 1).all()
    groups = assign_clients(data, split.train, Clients(by="column", column="taste_group"))
    column = data.user_columns["taste_group"]
    assert len(groups) == 4
    assert all(len(set(column[groups.row(k)].tolist())) == 1 for k in range(4))


def test_another_seed_gives_other_random_clients(planted: tuple[Interactions, Split]) -> None:
    data, split = planted
    one, two = (
        assign_clients(data, split.train, Clients(by="random", count=5, seed=seed))
        for seed in (0, 1)
    )
    assert one.values.tolist() != two.values.tolist()


def test_taste_finds_the_planted_groups(planted: tuple[Interactions, Split]) -> None:
    data, split = planted
    clients = assign_clients(data, split.train, Clients(by="taste", count=4))
    column = data.user_columns["taste_group"]
    pure = sum(
        int(np.unique(column[clients.row(k)], return_counts=True)[1].max()) for k in range(4)
    )
    assert pure >= 0.9 * 120


def test_taste_does_not_see_what_is_held_out(planted: tuple[Interactions, Split]) -> None:
    data, split = planted
    latest = np.flatnonzero(hold_out(data, SplitBy(), "error", []) == TEST)
    items = data.items.copy()
    for row in latest.tolist():
        unseen = np.setdiff1d(np.arange(60), data.items[data.users == data.users[row]])
        items[row] = unseen[row % len(unseen)]

    class Changed(Synthetic):
        def load(self) -> Interactions:
            return replace(data, items=items)

    section = Clients(by="taste", count=7)
    other = split_of(Changed(), section)
    assert other.test.values.tolist() != split.test.values.tolist()
    assert (other.clients.values == split_of(PLANTED, section).clients.values).all()


def test_identical_users_still_make_as_many_groups() -> None:
    rows = Ragged(np.arange(0, 22, 2), np.tile(np.array([0, 1]), 10))
    assert sorted(set(taste_groups(rows, 3, 7, 0).tolist())) == list(range(7))
    one = Ragged(np.array([0, 2]), np.array([0, 1]))
    assert taste_groups(one, 3, 1, 0).tolist() == [0]


@pytest.mark.parametrize("by", ["random", "taste"])
def test_more_clients_than_users_is_refused(by: str) -> None:
    section = Clients.model_validate({"by": by, "count": 121})
    with pytest.raises(ConfigError, match=r"clients.count: expected at most 120, .* got 121"):
        split_of(PLANTED, section)


def test_an_unknown_column_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"no user column 'taste_grp' .did you mean 'taste_group'"
    ):
        split_of(PLANTED, Clients(by="column", column="taste_grp"))


def test_without_scipy_taste_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingExtra, match=r"run: pip install "):
        taste_groups(Ragged(np.array([0, 1]), np.array([0])), 2, 1, 0)
