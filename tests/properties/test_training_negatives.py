"""What a client trains on: never its own positives as negatives, and nothing hidden is spared."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.compute.batch import PairBatch
from fedrec.personalization.base import FrozenItems, Personalization
from fedrec.training.plan import TrainingPlan, plan_training
from fedrec.types import Shard
from tests.planted import method_of, shard_of

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
        item
        for epoch in work.epochs
        for item in epoch.draws.negatives[epoch.draws.users == user].ravel().tolist()
    ]


def drawn(shard: Shard, protocol: str, rounds: int, popularity: bool) -> list[set[int]]:
    task = replace(
        method_of({"negatives": 4, "local_epochs": 2}, seed=1),
        protocol="legacy" if protocol == "legacy" else "clean",
    )
    counts = np.bincount(shard.train.values, minlength=shard.n_items)
    weights = counts + 1 if popularity else None
    works = [plan_training(task, shard, round, weights) for round in range(rounds)]
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
    train = {"local_epochs": 2, "batch_size": size, "negatives": 3}
    task = method_of(train, Looking(extra_rows=extra), seed=seed)
    work = plan_training(task, SHARD, round)
    for epoch in work.epochs:
        draws, counts = epoch.draws, np.zeros((3, SHARD.n_items, 2))
        positives = [(user, item) for user in range(3) for item in SHARD.train.row(user).tolist()]
        assert list(zip(draws.users.tolist(), draws.items.tolist(), strict=True)) == positives
        assert draws.negatives.shape == (len(positives), 3)
        assert draws.random.lengths.tolist() == [extra] * 3
        assert epoch.every_pair is not None
        for step in epoch.steps:
            pairs = list(zip(step.pairs.users.tolist(), step.pairs.items.tolist(), strict=True))
            assert pairs == sorted(set(pairs))
            assert (step.pairs.labels == step.is_positive).all()
            of_epoch = epoch.every_pair.pairs
            assert (of_epoch.items[step.pairs.index] == step.pairs.items).all()
            assert (of_epoch.users[step.pairs.index] == step.pairs.users).all()
            rows = step.local_rows.numpy()
            assert (work.rows.values[rows] == step.pairs.items.numpy()).all()
            client = np.searchsorted(work.rows.offsets, rows, side="right") - 1
            assert (client == step.pairs.clients.numpy()).all()
            at = step.pairs.users.numpy(), step.pairs.items.numpy()
            counts[(*at, 0)] += step.is_positive.numpy()
            counts[(*at, 1)] += step.n_negative.numpy()
        expected = np.zeros_like(counts)
        np.add.at(expected[..., 0], (draws.users, draws.items), 1)
        np.add.at(expected[..., 1], (draws.users[:, None], draws.negatives), 1)
        assert (counts == expected).all()
        client_of = SHARD.client_of_user()[draws.users]
        steps = [np.sort(draws.step[client_of == client]) for client in range(2)]
        batch = 99 if size == "full" else int(size)
        assert all((step == np.arange(len(step)) // batch).all() for step in steps)


class Looking(Personalization):
    """Asks for random rows, and for the pairs of every_pair epochs."""

    extra_rows: int = 0

    @property
    def random_rows(self) -> int:
        return self.extra_rows

    def prepare(self, frozen_items: FrozenItems, pairs: PairBatch) -> None:
        return None


def test_each_round_and_epoch_is_drawn_anew() -> None:
    task = method_of({"negatives": 4, "local_epochs": 2})
    first, second = (plan_training(task, SHARD, round) for round in (1, 2))
    assert negatives_of(first, 2) != negatives_of(second, 2)
    half = len(negatives_of(first, 2)) // 2
    assert negatives_of(first, 2)[:half] != negatives_of(first, 2)[half:]
