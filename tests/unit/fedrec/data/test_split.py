import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data import DataSet, SplitBy, Synthetic
from fedrec.data.clients import Clients
from fedrec.data.prepare import split_of
from fedrec.data.split import DROPPED, TEST, TRAIN, VALID, hold_out, select
from fedrec.errors import DataError
from fedrec.types import Interactions

METHODS = ("leave_one_out", "temporal", "ratio")


@st.composite
def data_sets(draw: st.DrawFn, least: int = 3) -> Interactions:
    """Every user has enough interactions; times are coarse, so there are many ties."""
    n_items = draw(st.integers(least, 9))
    sizes = draw(st.lists(st.integers(least, n_items), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    items = [rng.choice(n_items, size, replace=False) for size in sizes]
    total = sum(sizes)
    timed = draw(st.booleans())
    data = Interactions(
        users=np.repeat(np.arange(len(sizes)), sizes),
        items=np.concatenate(items),
        ratings=None,
        timestamps=rng.integers(0, 4, total).astype(np.float64) if timed else None,
        user_ids=np.array([f"u{user}" for user in range(len(sizes))]),
        item_ids=np.array([f"i{item}" for item in range(n_items)]),
    )
    return select(data, np.ones(total, np.bool_))


def shuffled(data: Interactions, seed: int) -> tuple[Interactions, np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(data))
    times = None if data.timestamps is None else data.timestamps[order]
    return (
        Interactions(
            data.users[order], data.items[order], None, times, data.user_ids, data.item_ids
        ),
        order,
    )


@given(data_sets(), st.integers(0, 3), st.integers(0, 9))
def test_leave_one_out_holds_out_the_two_latest(data: Interactions, seed: int, other: int) -> None:
    parts = hold_out(data, SplitBy(seed=seed), "error", [])
    for user in range(len(data.user_ids)):
        of_user = parts[data.users == user]
        assert sorted(of_user.tolist()) == [TRAIN] * (len(of_user) - 2) + [VALID, TEST]
        if data.timestamps is not None:
            times = data.timestamps[data.users == user]
            assert (
                times[of_user == TRAIN].max()
                <= times[of_user == VALID][0]
                <= times[of_user == TEST][0]
            )


@given(data_sets(), st.sampled_from(METHODS), st.integers(0, 3), st.integers(0, 9))
def test_no_split_depends_on_the_order_of_rows(
    data: Interactions, method: str, seed: int, other: int
) -> None:
    if method == "temporal" and data.timestamps is None:
        return
    by = SplitBy.model_validate({"name": method, "seed": seed})
    permuted, order = shuffled(data, other)
    try:
        parts = hold_out(data, by, "drop", [])
    except DataError:
        with pytest.raises(DataError):
            hold_out(permuted, by, "drop", [])
        return
    assert hold_out(permuted, by, "drop", []).tolist() == parts[order].tolist()


@given(data_sets())
def test_a_tie_is_decided_alike_whoever_else_is_there(data: Interactions) -> None:
    parts = hold_out(data, SplitBy(), "error", [])
    for user in range(len(data.user_ids)):
        of_user = data.users == user
        assert (
            hold_out(select(data, of_user), SplitBy(), "error", []).tolist()
            == parts[of_user].tolist()
        )


def test_the_seed_decides_ties_and_nothing_else() -> None:
    tied = Synthetic(users=200, items=50).load()
    untied = hold_out(tied, SplitBy(seed=0), "error", [])
    assert (untied == hold_out(tied, SplitBy(seed=1), "error", [])).all()
    flat = Interactions(
        tied.users, tied.items, None, np.zeros(len(tied)), tied.user_ids, tied.item_ids
    )
    first, second = (hold_out(flat, SplitBy(seed=seed), "error", []) for seed in (0, 1))
    same = (first == TEST) & (second == TEST)
    # Two random choices among n agree for about the sum of 1 / n users.
    chance = (1 / np.bincount(flat.users)).sum()
    assert abs(same.sum() - chance) < 4 * np.sqrt(chance) + 1


@given(data_sets(), st.floats(0, 0.49), st.floats(0.01, 0.5))
def test_ratio_gives_each_user_something_in_every_part(
    data: Interactions, valid: float, test: float
) -> None:
    by = SplitBy(name="ratio", valid=valid, test=test)
    parts = hold_out(data, by, "error", [])
    for user in range(len(data.user_ids)):
        of_user = parts[data.users == user]
        assert (of_user == TRAIN).any()
        assert (of_user == TEST).any()
        assert (of_user == VALID).any() == (valid > 0)
        assert (of_user == TEST).sum() == max(1, int(test * len(of_user) + 1e-9))


@given(data_sets())
def test_temporal_never_trains_on_the_future(data: Interactions) -> None:
    by = SplitBy(name="temporal", valid=0.2, test=0.2)
    if data.timestamps is None:
        problems: list[str] = []
        hold_out(data, by, "drop", problems)
        assert "temporal needs timestamps" in problems[0]
        return
    try:
        parts = hold_out(data, by, "drop", [])
    except DataError:
        return
    times = data.timestamps
    held = parts[parts > TRAIN]
    assert (parts == DROPPED).sum() + (parts == TRAIN).sum() + len(held) == len(data)
    for early, late in ((TRAIN, VALID), (TRAIN, TEST), (VALID, TEST)):
        if (parts == early).any() and (parts == late).any():
            assert times[parts == early].max() <= times[parts == late].min()
    trained = set(data.users[parts == TRAIN].tolist())
    assert set(data.users[parts != DROPPED].tolist()) == trained


class Rows(DataSet):
    """Users 'a' with four, 'b' with two and 'c' with one interaction."""

    def load(self) -> Interactions:
        items = np.array([0, 1, 2, 3, 0, 1, 2])
        return Interactions(
            users=np.array([0, 0, 0, 0, 1, 1, 2]),
            items=items,
            ratings=None,
            timestamps=np.array([1.0, 2, 3, 4, 1, 2, 9]),
            user_ids=np.array(["a", "b", "c"]),
            item_ids=np.array(["w", "x", "y", "z"]),
            name="rows",
        )

    def fingerprint(self) -> str:
        return "rows"


def test_a_short_user_is_named_with_its_count_and_the_option() -> None:
    with pytest.raises(
        DataError,
        match=r"user 'b' has 2 interactions, leave_one_out needs 3 \(and 1 more users\); "
        "set data.short_users to train_only or drop",
    ):
        split_of(Rows(), Clients())
    with pytest.raises(DataError, match="user 'c' has 1 interaction, ratio needs 2"):
        split_of(Rows(split=SplitBy(name="ratio", valid=0)), Clients())
    with pytest.raises(DataError, match="user 'c' has 1 interaction, temporal needs 1 in the tra"):
        split_of(Rows(split=SplitBy(name="temporal")), Clients())


def test_short_users_stay_in_training_or_are_dropped() -> None:
    train_only = split_of(Rows(short_users="train_only"), Clients())
    assert train_only.user_ids.tolist() == ["a", "b", "c"]
    assert [train_only.train.lengths.tolist(), train_only.test.lengths.tolist()] == [
        [2, 2, 1],
        [1, 0, 0],
    ]
    dropped = split_of(Rows(short_users="drop"), Clients())
    assert dropped.user_ids.tolist() == ["a"]
    for option in ("train_only", "drop"):
        late = split_of(
            Rows.model_validate(
                {"short_users": option, "split": {"name": "temporal", "test": 0.3}}
            ),
            Clients(),
        )
        assert late.user_ids.tolist() == ["a", "b"]


@pytest.mark.parametrize("option", ["train_only", "drop"])
def test_a_split_without_a_test_is_refused(option: str) -> None:
    short = Rows().load()
    two = select(short, np.asarray(short.users > 0))
    with pytest.raises(DataError, match="leaves nothing to t"):
        hold_out(two, SplitBy(), option, [])  # type: ignore[arg-type]


@settings(max_examples=25)
@given(data_sets(), st.sampled_from(METHODS), st.booleans())
def test_every_split_passes_the_leakage_check(
    data: Interactions, method: str, legacy: bool
) -> None:
    class Given(Rows):
        def load(self) -> Interactions:
            return data

    options = {"split": {"name": method}, "short_users": "drop"}
    try:
        split = split_of(Given.model_validate(options), Clients())
    except DataError as error:
        assert "unsound" not in str(error)
        return
    for user in range(split.n_users):
        raw = np.flatnonzero(data.user_ids == split.user_ids[user])[0]
        items = data.item_ids[data.items[data.users == raw]]
        rows = [part.row(user) for part in (split.train, split.valid, split.test)]
        assert sorted(split.item_ids[np.concatenate(rows)].tolist()) == sorted(items.tolist())


@given(data_sets(), st.sampled_from(METHODS), st.integers(0, 9), st.data())
def test_items_of_some_users_alone_are_held_out(
    data: Interactions, name: str, seed: int, drawn: st.DataObject
) -> None:
    by = SplitBy.model_validate({"name": name, "seed": seed})
    try:
        everybody = hold_out(data, by, "train_only", [])
    except DataError:
        return
    held_out = np.bincount(data.users, everybody > TRAIN) > 0
    n = drawn.draw(st.integers(1, int(held_out.sum())))
    try:
        subsets = hold_out(data, by.model_copy(update={"users": n}), "train_only", [])
    except DataError:  # the chosen users may have no test items
        return
    chosen = np.bincount(data.users, subsets > TRAIN) > 0
    assert chosen.sum() == n
    np.testing.assert_array_equal(subsets[chosen[data.users]], everybody[chosen[data.users]])
    others = everybody[~chosen[data.users]]
    given_back = TRAIN if name != "temporal" else DROPPED
    np.testing.assert_array_equal(
        subsets[~chosen[data.users]], np.where(others > TRAIN, given_back, others)
    )


def test_more_users_than_there_are_is_an_error() -> None:
    data = Synthetic(users=9, items=20, split=SplitBy(users=10))
    with pytest.raises(DataError, match=r"data\.split\.users: 10 is more than the 9 users"):
        split_of(data, Clients())
