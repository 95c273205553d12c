"""The latest train items, in order."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.data.history import latest
from fedrec.errors import ConfigError, DataError
from fedrec.models import LLMText, MatrixFactorization, SASRec
from fedrec.training.draws import check_order
from fedrec.types import Shard
from tests.planted import federations, method_of, shard_of


@given(shard=federations(), n=st.integers(1, 6), seed=st.integers(0, 99), ties=st.booleans())
def test_the_latest_items_come_last(shard: Shard, n: int, seed: int, ties: bool) -> None:
    count = len(shard.train.values)
    rng = np.random.default_rng(seed)
    times = rng.integers(0, 2 if ties else 10**9, count).astype(np.float64)
    histories = latest(replace(shard, timestamps=times), n)
    for user in range(shard.n_users):
        own = np.arange(*shard.train.offsets[user : user + 2])
        of_user = histories.row(user)
        assert len(of_user) == min(n, len(own))
        assert set(of_user) <= set(own)
        assert times[of_user].tolist() == sorted(times[own])[len(own) - len(of_user) :]


def test_ties_follow_neither_the_catalogue_nor_who_else_is_there() -> None:
    shard = replace(shard_of(40, [range(30), range(30)]), timestamps=np.zeros(60))
    first, second = (latest(shard, 40).row(user) for user in (0, 1))
    assert first.tolist() != sorted(first)
    assert first.tolist() != (second - 30).tolist()
    alone = latest(shard.take(np.array([1])), 40).row(0)
    assert alone.tolist() == (second - 30).tolist()


def test_data_without_order_is_refused() -> None:
    with pytest.raises(DataError, match=r"SASRec looks at the order .*columns\.timestamp"):
        check_order(SASRec(), None, "mine")
    check_order(SASRec(), np.zeros(3), "mine")
    check_order(MatrixFactorization(), None, "mine")
    check_order(LLMText(), None, "mine")


def test_without_times_the_order_is_that_of_equal_times() -> None:
    shard = shard_of(40, [range(30), range(9)])
    equal = latest(replace(shard, timestamps=np.zeros(39)), 8)
    assert latest(shard, 8).values.tolist() == equal.values.tolist()


def test_a_flat_model_has_no_window() -> None:
    class Flat(MatrixFactorization):
        @property
        def window(self) -> int:
            return 3

    with pytest.raises(ConfigError, match="Flat has a window but is 'flat'"):
        method_of(model=Flat()).executor()
