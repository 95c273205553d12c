"""A model may draw its negatives itself; what it draws is checked."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data.negatives import uniform_negatives
from fedrec.errors import ConfigError
from fedrec.models.mf import MatrixFactorization
from fedrec.training.draws import draw_round
from fedrec.training.plan import plan_training
from fedrec.types import Shard
from tests.planted import federations, method_of, shard_of

_32 = np.uint64(32)


class Uniform(MatrixFactorization):
    """Draws as the framework does."""

    def negatives(
        self, hashed: Any, users: Any, positives: Any, excluded: Any, n_items: int, catalogue: Any
    ) -> Any:
        return uniform_negatives((hashed >> _32).astype(np.uint32), users, excluded, n_items)


class Next(MatrixFactorization):
    """Takes the next item after the positive that the user does not have."""

    def negatives(
        self, hashed: Any, users: Any, positives: Any, excluded: Any, n_items: int, catalogue: Any
    ) -> Any:
        items = (positives + 1) % n_items
        while (taken := excluded.find(users, items) >= 0).any():
            items[taken] = (items[taken] + 1) % n_items
        return items


class Given(MatrixFactorization):
    """Returns what it is told."""

    answer: Any = None

    def negatives(
        self, hashed: Any, users: Any, positives: Any, excluded: Any, n_items: int, catalogue: Any
    ) -> Any:
        return self.answer


@settings(max_examples=30, deadline=None)
@given(shard=federations(several=True), round=st.integers(1, 9), epochs=st.integers(1, 2))
def test_the_draws_of_the_framework_are_those_of_a_model_that_makes_them(
    shard: Shard, round: int, epochs: int
) -> None:
    train = {"local_epochs": epochs, "negatives": 3}
    expected, drawn = (
        draw_round(method_of(train, model=model), shard, round)
        for model in (MatrixFactorization(), Uniform())
    )
    for epoch, like in zip(drawn, expected, strict=True):
        assert (epoch.negatives == like.negatives).all()


@settings(max_examples=30, deadline=None)
@given(shard=federations(several=True))
def test_a_model_sees_the_positive_that_it_draws_for(shard: Shard) -> None:
    (draws,) = draw_round(method_of({"negatives": 2}, model=Next()), shard, 1)
    for user, positive, negatives in zip(draws.users, draws.items, draws.negatives, strict=True):
        train, item = set(shard.train.row(int(user)).tolist()), int(positive)
        while item in train:
            item = (item + 1) % shard.n_items
        assert negatives.tolist() == [item, item]


def test_a_plan_holds_the_negatives_of_the_model() -> None:
    shard = shard_of(9, [[0, 1], [4]])
    (epoch,) = plan_training(method_of({"negatives": 1}, model=Next()), shard, 1).epochs
    (step,) = epoch.steps
    assert step.pairs.items.tolist() == [0, 1, 2, 4, 5]
    assert step.is_positive.tolist() == [1, 1, 0, 1, 0]
    assert step.n_negative.tolist() == [0, 0, 2, 0, 1]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([5, 6, 7], "returned list; expected int64 of the shape (3,)"),
        (np.array([5, 6]), "returned int64 of the shape (2,); expected int64 of the shape (3,)"),
        (np.array([5.0, 6.0, 7.0]), "returned float64 of the shape (3,); expected int64"),
        (np.array([5, 6, 9]), "returned item 9; expected items from 0 to 8 that are not among"),
        (np.array([5, -1, 7]), "returned item -1; expected items from 0 to 8"),
        (np.array([5, 6, 4]), "returned item 4; expected items from 0 to 8 that are not among"),
    ],
    ids=repr,
)
def test_what_no_negative_is_is_refused(answer: Any, message: str) -> None:
    task = method_of({"negatives": 1}, model=Given(answer=answer))
    with pytest.raises(ConfigError) as error:
        draw_round(task, shard_of(9, [[0, 1], [4]]), 1)
    assert str(error.value).startswith(f"model Given: negatives {message}")
