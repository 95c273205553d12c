"""What a client trains on: never its own positives as negatives, and nothing hidden is spared."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data.negatives import popularity_weights
from fedrec.training.plan import TrainingPlan, plan_training
from fedrec.training.settings import Train
from fedrec.types import Shard
from tests.planted import shard_of

SHARD = shard_of(
    12,
    train=[[0, 3, 4], [1], [2, 5, 6, 7, 8]],
    users_of_clients=[2, 1],
    valid=[[1], [2], [0]],
    test=[[2], [5], [11]],
)


def negatives_of(work: TrainingPlan, user: int) -> list[int]:
    """All items drawn as negatives of a user, over the epochs."""
    return [
        int(epoch.touched.items[pair])
        for epoch in work.epochs
        for pair in epoch.negative[epoch.user == user].ravel()
    ]


def drawn(shard: Shard, protocol: str, rounds: int, popularity: bool) -> list[set[int]]:
    train = Train(negatives=4, local_epochs=2)
    weights = popularity_weights(shard.train, shard.n_items) if popularity else None
    works = [
        plan_training(
            shard, train, 1, round, "legacy" if protocol == "legacy" else "clean", weights
        )
        for round in range(rounds)
    ]
    return [{i for work in works for i in negatives_of(work, u)} for u in range(shard.n_users)]


@pytest.mark.parametrize("popularity", [False, True], ids=["uniform", "popularity"])
def test_clean_draws_all_but_the_train_items(popularity: bool) -> None:
    everything = set(range(SHARD.n_items))
    for user, items in enumerate(drawn(SHARD, "clean", 60, popularity)):
        assert items == everything - set(SHARD.train.row(user).tolist())


@pytest.mark.parametrize("popularity", [False, True], ids=["uniform", "popularity"])
def test_legacy_spares_the_held_out_items(popularity: bool) -> None:
    everything = set(range(SHARD.n_items))
    for user, items in enumerate(drawn(SHARD, "legacy", 60, popularity)):
        parts = (SHARD.train, SHARD.valid, SHARD.test)
        assert items == everything - {item for part in parts for item in part.row(user).tolist()}


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    round=st.integers(0, 99),
    extra=st.integers(0, 3),
    size=st.sampled_from(["full", 1, 2]),
)
def test_a_plan_is_whole(seed: int, round: int, extra: int, size: str | int) -> None:
    train = Train.model_validate({"local_epochs": 2, "batch_size": size, "negatives": 3})
    work = plan_training(SHARD, train, seed, round, extra_rows=extra)
    for epoch in work.epochs:
        touched = epoch.touched
        pairs = list(zip(touched.users.tolist(), touched.items.tolist(), strict=True))
        assert pairs == sorted(set(pairs))
        assert [pairs[at] for at in epoch.positive] == [
            (user, item) for user in range(3) for item in SHARD.train.row(user).tolist()
        ]
        assert touched.labels.nonzero().squeeze(1).tolist() == sorted(epoch.positive.tolist())
        assert epoch.negative.shape == (len(epoch.positive), 3)
        users = touched.users.numpy()
        assert (users[epoch.negative] == epoch.user[:, None]).all()
        assert not touched.labels.numpy()[epoch.negative].any()
        assert np.bincount(users[epoch.extra], minlength=3).tolist() == [extra] * 3
        local_rows = touched.local_rows.numpy()
        assert (work.row_items[local_rows] == touched.items.numpy()).all()
        client = np.searchsorted(work.row_offsets, local_rows, side="right") - 1
        assert (client == touched.clients.numpy()).all()
        steps = [np.sort(epoch.step[epoch.client == client]) for client in range(2)]
        batch = 99 if size == "full" else int(size)
        assert all((step == np.arange(len(step)) // batch).all() for step in steps)


def test_each_round_and_epoch_is_drawn_anew() -> None:
    train = Train(negatives=4, local_epochs=2)
    first, second = (plan_training(SHARD, train, 0, round) for round in (1, 2))
    assert negatives_of(first, 2) != negatives_of(second, 2)
    half = len(negatives_of(first, 2)) // 2
    assert negatives_of(first, 2)[:half] != negatives_of(first, 2)[half:]
