import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data import Synthetic
from fedrec.data.split import check_interactions, keep_one


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(6, 40),
    st.floats(0.5, 60),
    st.floats(0, 2),
    st.floats(0, 1),
    st.floats(0, 20),
    st.integers(0, 3),
)
def test_each_user_has_distinct_items_and_times(
    users: int,
    items: int,
    mean: float,
    spread: float,
    noise: float,
    sharpness: float,
    seed: int,
) -> None:
    data = Synthetic(
        users=users,
        items=items,
        taste_groups=min(3, users),
        interactions_per_user=mean,
        spread=spread,
        noise=noise,
        sharpness=sharpness,
        seed=seed,
    ).load()
    check_interactions(data)
    assert keep_one(data, "error", []).all()
    counts = np.bincount(data.users, minlength=users)
    assert counts.min() >= 3
    assert counts.max() <= items // 2
    assert data.timestamps is not None
    assert len(np.unique(np.stack([data.users, data.timestamps]), axis=1).T) == len(data)


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    one, same, other = (Synthetic(users=50, seed=seed).load() for seed in (0, 0, 1))
    assert one.items.tobytes() == same.items.tobytes()
    assert one.items.tobytes() != other.items.tobytes()
    prints = {
        Synthetic(seed=seed, noise=noise).fingerprint() for seed in (0, 1) for noise in (0, 1)
    }
    assert len(prints) == 4
    assert Synthetic(threshold=3).fingerprint() == Synthetic().fingerprint()


def test_the_planted_scores_are_of_low_rank_and_shared_by_a_group() -> None:
    data = Synthetic(users=40, items=50, taste_groups=5, rank=3)
    scores = data.true_scores()
    assert np.linalg.matrix_rank(scores) == 3
    groups = data.load().user_columns["taste_group"]
    assert sorted(np.unique(groups, return_counts=True)[1].tolist()) == [8] * 5
    for group in np.unique(groups):
        assert np.ptp(scores[groups == group], axis=0).max() == 0


def test_items_are_drawn_in_proportion_to_the_planted_shares() -> None:
    synthetic = Synthetic(
        users=4000, items=400, taste_groups=1, interactions_per_user=3, spread=0, noise=0.3
    )
    data = synthetic.load()
    share = np.exp(synthetic.true_scores()[0])
    share = 0.7 * share / share.sum() + 0.3 / 400
    # Three draws without replacement, summed over the first two items drawn.
    second = share * ((share / (1 - share)).sum() - share / (1 - share))
    pairs = share[:, None] * share / (1 - share[:, None])
    np.fill_diagonal(pairs, 0)
    assert np.allclose(pairs.sum(axis=0), second)
    left = 1 - share[:, None] - share
    weight = pairs / left
    np.fill_diagonal(weight, 0)
    third = share * (weight.sum() - weight.sum(axis=1) - weight.sum(axis=0))
    expected = 4000 * (share + second + third)
    counts = np.bincount(data.items, minlength=400)
    assert abs(counts.sum() - expected.sum()) < 1e-6
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 400 + 5 * np.sqrt(800)


def test_the_order_in_time_says_nothing_about_taste() -> None:
    synthetic = Synthetic(users=2000, items=100, taste_groups=2, spread=0, noise=0)
    data = synthetic.load()
    assert data.timestamps is not None
    scores = synthetic.true_scores()[data.users, data.items]
    order = np.lexsort((data.timestamps, data.users))
    late = np.concatenate([[False], data.users[order][1:] == data.users[order][:-1]])
    last = np.append(~late[1:], True)
    gap = scores[order][last].mean() - scores.mean()
    assert abs(gap) < 5 * scores.std() / np.sqrt(2000)


def test_a_hundred_thousand_users_need_no_loop_over_users() -> None:
    data = Synthetic(users=100_000, items=300, interactions_per_user=5, spread=0.3).load()
    assert len(data.user_ids) == 100_000


def test_with_more_groups_than_users_each_user_has_its_own() -> None:
    assert len(set(Synthetic(users=3, taste_groups=4).groups().tolist())) == 3
