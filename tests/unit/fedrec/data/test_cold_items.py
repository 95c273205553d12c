"""Items that are held out from everybody's training, and the users that take them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data import DataSet, SplitBy, Synthetic
from fedrec.data.clients import Clients
from fedrec.data.negatives import popularity_weights
from fedrec.data.prepare import open_split, save_split, split_of
from fedrec.data.split import DROPPED, TEST, TRAIN, VALID, check_split, cold_items, hold_out, select
from fedrec.errors import ConfigError, DataError
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.training.draws import draw_round
from fedrec.types import Interactions, Split
from tests.planted import in_numba, initial_state, method_of, train

METHODS = ("leave_one_out", "temporal", "ratio")


class Given(DataSet):
    """The interactions that a test has made."""

    def load(self) -> Interactions:
        return MADE[self.fingerprint()]

    def fingerprint(self) -> str:
        return "given"


MADE: dict[str, Interactions] = {}


@st.composite
def data_sets(draw: st.DrawFn) -> Interactions:
    """Users with any numbers of interactions, at any times."""
    n_users, n_items = draw(st.integers(2, 12)), draw(st.integers(6, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    taken = rng.random((n_users, n_items)) < rng.random((n_users, 1))
    taken[:2, :] |= rng.random((2, n_items)) < 0.8
    users, items = np.nonzero(taken)
    data = Interactions(
        users=users,
        items=items,
        ratings=None,
        timestamps=rng.integers(0, 20, len(users)).astype(np.float64),
        user_ids=np.array([f"u{user}" for user in range(n_users)], object),
        item_ids=np.array([f"i{item:02d}" for item in range(n_items)], object),
        item_columns={"title": np.array([f"title {item}" for item in range(n_items)], object)},
    )
    return select(data, rng.permutation(len(users)) < len(users))


options = st.fixed_dictionaries(
    {"name": st.sampled_from(METHODS), "seed": st.integers(0, 9), "cold_items": st.floats(0.2, 0.6)}
)


def split_given(data: Interactions, **fields: object) -> Split | None:
    """The split of some interactions; None where too little is left."""
    MADE["given"] = data
    try:
        return split_of(Given.model_validate(fields), Clients())
    except DataError as error:
        assert "unsound" not in str(error)
        return None


@settings(max_examples=100, deadline=None)
@given(data_sets(), options, st.sampled_from(["train_only", "drop"]), st.sampled_from([0, 2]))
def test_a_cold_item_is_in_nobodys_train_items(
    data: Interactions, by: dict[str, object], short_users: str, k_core: int
) -> None:
    split = split_given(data, split=by, short_users=short_users, k_core=k_core)
    if split is None:
        return
    counts = split.train_counts()
    assert (counts[: split.n_drawn] > 0).all() and not counts[split.n_drawn :].any()
    assert not popularity_weights(split)[split.n_drawn :].any()
    assert (popularity_weights(split)[: split.n_drawn] == counts[: split.n_drawn] + 1).all()
    titles = split.item_columns["title"]
    assert [f"title {int(item[1:])}" for item in split.item_ids] == titles.tolist()
    assert split.shard(np.arange(split.n_clients)).take(np.array([0])).n_drawn == split.n_drawn


@given(data_sets(), options)
def test_what_a_cold_item_is_held_out_for_depends_on_the_item_alone(
    data: Interactions, by: dict[str, object]
) -> None:
    split_by = SplitBy.model_validate(by)
    try:
        of_item, subsets = cold_items(data, split_by), hold_out(data, split_by, "drop", [])
    except DataError:
        return
    count = int(split_by.cold_items * len(of_item) + 1e-9)
    assert [(of_item == part).sum() for part in (VALID, TEST)] == [count // 2, (count + 1) // 2]
    is_cold = of_item[data.items] != TRAIN
    stays = subsets != DROPPED
    assert (subsets == of_item[data.items])[is_cold & stays].all()
    # The other interactions are split as if cold items did not exist.
    warm = select(data, ~is_cold)
    without = split_by.model_copy(update={"cold_items": 0.0})
    assert hold_out(warm, without, "drop", []).tolist() == subsets[~is_cold].tolist()
    # A user stays if, and only if, it trains.
    assert set(data.users[stays]) == set(data.users[subsets == TRAIN])


@given(data_sets(), options, st.integers(0, 9))
def test_cold_items_do_not_depend_on_the_order_of_rows(
    data: Interactions, by: dict[str, object], seed: int
) -> None:
    assert data.timestamps is not None
    rows = np.random.default_rng(seed).permutation(len(data))
    shuffled = replace(
        data, users=data.users[rows], items=data.items[rows], timestamps=data.timestamps[rows]
    )
    one, two = (split_given(each, split=by, short_users="drop") for each in (data, shuffled))
    assert (one is None) == (two is None)
    if one is not None and two is not None:
        assert one.item_ids.tolist() == two.item_ids.tolist() and one.n_cold == two.n_cold
        for part in ("train", "valid", "test"):
            assert getattr(one, part).values.tolist() == getattr(two, part).values.tolist()


def test_by_hand() -> None:
    # Items i0 and i1 of six are cold; b has nothing else, c one warm interaction.
    users, items = [0, 0, 0, 0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 4, 0, 1, 0, 5]
    data = Interactions(
        np.array(users),
        np.array(items),
        None,
        np.arange(9, dtype=np.float64),
        np.array(["a", "b", "c"], object),
        np.array([f"i{item}" for item in range(6)], object),
    )
    seed = next(
        seed
        for seed in range(10_000)
        if cold_items(data, SplitBy(seed=seed, cold_items=0.34)).tolist()
        == [VALID, TEST, *[TRAIN] * 4]
    )
    by = SplitBy(seed=seed, cold_items=0.34)
    problems: list[str] = []
    subsets = hold_out(data, by, "error", problems)
    assert "user 'b' has 0 interactions with items that are not cold, leave_one_out" in problems[0]
    a = [VALID, TEST, TRAIN, VALID, TEST]
    assert subsets.tolist() == [*a, DROPPED, DROPPED, VALID, TRAIN]
    assert hold_out(data, by, "train_only", []).tolist() == subsets.tolist()
    assert hold_out(data, by, "drop", []).tolist() == [*a, *[DROPPED] * 4]
    split = split_given(data, split=by.model_dump(), short_users="train_only")
    assert split is not None
    # i3 and i4 are trained on by nobody either: the validation and the test item of a.
    assert split.item_ids.tolist() == ["i2", "i5", "i0", "i1", "i3", "i4"]
    assert split.n_cold == 4
    with pytest.raises(
        DataError, match=r"cold_items: 0\.2 of the 6 items of data is 1, expected one"
    ):
        hold_out(data, SplitBy(cold_items=0.2), "drop", [])


SYNTHETIC = Synthetic.model_validate({"users": 60, "items": 80, "split": {"cold_items": 0.25}})


def test_a_split_with_cold_items_is_kept_in_its_file(tmp_path: Path) -> None:
    split = split_of(SYNTHETIC, Clients())
    save_split(split, tmp_path / "split")
    assert open_split(tmp_path / "split").n_cold == split.n_cold >= 20


def test_training_on_a_cold_item_is_unsound() -> None:
    split = split_of(SYNTHETIC, Clients())
    with pytest.raises(DataError, match="a cold item is trained on"):
        check_split(replace(split, n_cold=split.n_cold + 1))


def test_protocol_legacy_has_no_cold_items() -> None:
    with pytest.raises(ConfigError, match=r"split\.cold_items: protocol legacy"):
        Synthetic.model_validate({"protocol": "legacy", "split": {"cold_items": 0.1}})


@pytest.mark.parametrize("by_popularity", [False, True])
def test_cold_items_are_never_drawn(by_popularity: bool) -> None:
    split = split_of(SYNTHETIC, Clients())
    shard = split.shard(np.arange(split.n_clients))
    task = method_of({"negatives": 5}, PLGC(branch="table", decorrelation=0.1))
    weights = popularity_weights(split) if by_popularity else None
    drawn: set[int] = set()
    for number in range(20):
        for epoch in draw_round(task, shard, number, weights):
            drawn.update(epoch.negatives.ravel().tolist(), epoch.random.values.tolist())
    assert drawn == set(range(split.n_drawn))


def test_machine_code_draws_the_same_items() -> None:
    pytest.importorskip("numba", reason="needs the extra 'sim'")
    assert in_numba(PLGC())
    split = split_of(SYNTHETIC, Clients())
    shard = split.shard(np.arange(split.n_clients))
    task = method_of({"backend": "numba", "negatives": 3})
    _, (update,), _ = train(task, shard)
    plain = method_of({"negatives": 3})
    expected = [
        sorted({*epoch.items.tolist(), *epoch.negatives.ravel().tolist()})
        for client in range(shard.n_clients)
        for epoch in draw_round(plain, shard.take(np.array([client])), 1)
    ]
    block = update.tables["item"]
    rows = [block.ids[a:b].tolist() for a, b in zip(block.offsets, block.offsets[1:], strict=False)]
    assert rows == expected
    assert block.ids.max() < split.n_drawn


def test_a_row_of_a_cold_item_stays_as_it_began() -> None:
    split = split_of(SYNTHETIC, Clients())
    shard = split.shard(np.arange(split.n_clients))
    task = method_of({"negatives": 5})
    begun, _ = initial_state(task, shard)
    trained, _, _ = train(task, shard, rounds=3)
    changed = (trained["item"] != begun["item"]).any(axis=1)
    assert changed[: split.n_drawn].all() and not changed[split.n_drawn :].any()
