"""The parts of the machine code against the plain code that they stand for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data.negatives import pool_excluded, uniform_negatives
from fedrec.personalization.plgc.decorrelation import single_view
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.seeds import Purpose, bits
from fedrec.training.draws import batch_steps
from fedrec.types import FloatArray, Shard
from tests.planted import federations, shard_of

pytest.importorskip("numba", reason="needs the extra 'sim'")

from fedrec.training.executors.numba.arithmetic import decorrelation, logistic
from fedrec.training.executors.numba.draws import draw_negatives, sample_history, shuffle
from fedrec.training.executors.numba.kernel import Settings


def curve(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    chance, price = np.empty_like(score), np.empty_like(score)
    logistic(score, chance, price)
    return chance, price


def test_the_logistic_function_is_exact_in_both_tails() -> None:
    score = np.concatenate([np.linspace(-690, 690, 4001), np.linspace(-3, 3, 4001), [0.0, -0.0]])
    chance, price = curve(score)
    np.testing.assert_allclose(chance, np.exp(-np.logaddexp(0, -score)), rtol=1e-12)
    np.testing.assert_allclose(price, np.logaddexp(0, score), rtol=1e-12)


def test_what_is_not_finite_stays_so() -> None:
    chance, price = curve(np.array([np.inf, -np.inf, np.nan]))
    assert chance[0] == 1 and chance[1] < 1e-300 and np.isnan(chance[2])
    assert price[0] == np.inf and price[1] < 1e-300 and np.isnan(price[2])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(0, 50), st.integers(0, 99))
def test_a_score_has_the_same_bits_in_every_place(n: int, shift: int, seed: int) -> None:
    score = np.random.default_rng(seed).normal(0, 5, n + shift)
    whole, alone = curve(score), [curve(score[i : i + 1]) for i in range(shift, n + shift)]
    for part in (0, 1):
        assert whole[part][shift:].tobytes() == b"".join(one[part].tobytes() for one in alone)
        assert curve(score[shift:])[part].tobytes() == whole[part][shift:].tobytes()


@settings(max_examples=40, deadline=None)
@given(
    shard=federations(),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 2),
    k=st.integers(1, 300),
    wide=st.booleans(),
)
def test_negatives_are_the_plain_ones(
    shard: Shard, seed: int, epoch: int, k: int, wide: bool
) -> None:
    n_items = 100_000 if wide else shard.n_items
    excluded = pool_excluded(shard, "clean")
    shift = np.empty(n_items, np.int32)
    for user in range(shard.n_users):
        n = int(shard.train.lengths[user]) * k
        owner = int(shard.user_ids[user])
        draw = epoch * n + np.arange(n)
        hashed = bits(seed, Purpose.NEGATIVES, 7, np.full(n, owner), draw) >> np.uint64(32)
        expected = uniform_negatives(hashed.astype(np.uint32), np.full(n, user), excluded, n_items)
        drawn = np.empty(n, np.int32)
        draw_negatives(seed, 7, owner, epoch, excluded.row(user).copy(), n_items, shift, drawn)
        assert drawn.tolist() == expected.tolist()


@settings(max_examples=30, deadline=None)
@given(federations(), st.integers(0, 99), st.integers(1, 5), st.integers(0, 2))
def test_batches_are_the_plain_ones(shard: Shard, seed: int, size: int, epoch: int) -> None:
    steps = batch_steps(shard, shard.train, size, seed, 4, epoch)
    settings = Settings(*[0] * len(Settings._fields))._replace(seed=seed, round=4)
    for user in range(shard.n_users):
        shuffled = np.empty(shard.train.lengths[user], np.int64)
        shuffle(settings, epoch, int(shard.user_ids[user]), shuffled)
        low, high = shard.train.offsets[user : user + 2]
        assert steps[low:high][shuffled].tolist() == [at // size for at in range(len(shuffled))]


@settings(max_examples=30, deadline=None)
@given(shard=federations(), seed=st.integers(0, 99), cap=st.integers(1, 6))
def test_a_capped_history_is_the_plain_one(shard: Shard, seed: int, cap: int) -> None:
    history = PLGC(history_cap=cap).history(shard, seed)
    for user in range(shard.n_users):
        items = shard.train.row(user).copy()
        kept = np.empty(min(cap, len(items)), np.int32)
        sample_history(seed, int(shard.user_ids[user]), items, len(kept), kept)
        assert items[kept].tolist() == history.row(user).tolist()


def test_a_user_without_positives_excludes_nothing() -> None:
    shard = shard_of(5, [[]])
    drawn = np.empty(0, np.int32)
    nothing = shard.train.row(0).copy()
    draw_negatives(0, 1, 0, 0, nothing, 5, np.empty(5, np.int32), drawn)
    assert len(drawn) == 0


@pytest.mark.parametrize(("kind", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-12)])
@settings(max_examples=20, deadline=None)
@given(n=st.integers(8, 60), d=st.integers(2, 40), seed=st.integers(0, 99))
def test_repelling_gradients_are_those_of_autograd(
    kind: type, tolerance: float, n: int, d: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows: FloatArray = rng.standard_normal((n + 3, d)).astype(kind)
    at = rng.permutation(n + 3)[:n].astype(np.int32)
    z: FloatArray = np.empty((n, d), kind)
    gram: FloatArray = np.empty((2, d, d), kind)
    dz = z.copy()
    leaf = torch.tensor(rows[at], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(0.7 * single_view(leaf), leaf)
    assert decorrelation(rows, at, 0.7, z, dz, gram)
    np.testing.assert_allclose(dz, expected.numpy(), atol=tolerance, rtol=0)


def test_one_row_repels_nothing() -> None:
    one, gram, at = np.ones((1, 3)), np.empty((2, 3, 3)), np.zeros(1, np.int32)
    assert not decorrelation(one, at, 1.0, one.copy(), one.copy(), gram)
