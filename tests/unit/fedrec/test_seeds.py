"""Philox has known answers, and a draw depends on nothing but where it is used."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedrec.seeds import Purpose, bits, normal, philox, uniform
from fedrec.seeds import words as stream

KNOWN = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
"""Counter, key and result of Philox4x32-10 (salmon2011philox, Random123's ``kat_vectors``)."""


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox_gives_the_known_answers(counter: str, key: str, result: str) -> None:
    hashed = philox([np.array([word], np.uint64) for word in words(counter)], *words(key))
    assert [int(word[0]) for word in hashed] == words(result)


@given(
    seed=st.integers(0, 2**63 - 1),
    round=st.integers(0, 2**32 - 1),
    start=st.integers(0, 2**40),
    length=st.integers(1, 200),
    at=st.integers(0, 199),
)
def test_a_draw_does_not_depend_on_its_company(
    seed: int, round: int, start: int, length: int, at: int
) -> None:
    owners = np.arange(start, start + length, dtype=np.int64)
    one = owners[[at % length]]
    draw = np.full(1, 7, np.int64)
    everyone = bits(seed, Purpose.NEGATIVES, round, owners, draw)
    assert everyone[at % length] == bits(seed, Purpose.NEGATIVES, round, one, draw)[0]
    values = normal(seed, Purpose.INIT_LOCAL, owners, (5,), salt=3)
    assert np.array_equal(
        values[at % length], normal(seed, Purpose.INIT_LOCAL, one, (5,), salt=3)[0]
    )


def test_every_coordinate_counts() -> None:
    owner, draw = np.arange(3, dtype=np.int64), np.arange(3, dtype=np.int64)
    base = bits(1, Purpose.COHORT, 1, owner, draw)
    others = [
        bits(2, Purpose.COHORT, 1, owner, draw),
        bits(1 + 2**32, Purpose.COHORT, 1, owner, draw),
        bits(1, Purpose.BATCHES, 1, owner, draw),
        bits(1, Purpose.COHORT, 2, owner, draw),
        bits(1, Purpose.COHORT, 1, owner + 2**32, draw),
        bits(1, Purpose.COHORT, 1, owner, draw + 1),
    ]
    assert not any((base == other).any() for other in others)


def test_distributions() -> None:
    owners = np.arange(20_000, dtype=np.int64)
    flat = uniform(5, Purpose.HISTORY, 0, owners, np.zeros(1, np.int64))
    assert stats.kstest(flat, "uniform").pvalue > 0.001
    values = normal(5, Purpose.INIT_GLOBAL, owners, (3,))
    for column in values.T:
        assert stats.kstest(column.astype(float), "norm").pvalue > 0.001
    assert abs(np.corrcoef(values.T)[0, 1]) < 0.03


@given(keys=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5), n=st.integers(0, 40_000))
def test_a_stream_does_not_depend_on_its_company(keys: list[int], n: int) -> None:
    states = np.array(keys, np.uint64)
    counts = np.array([n // (1 + at) for at in range(len(keys))])
    alone = [stream(states[[at]], counts[[at]]) for at in range(len(keys))]
    assert np.array_equal(stream(states, counts), np.concatenate(alone))


def test_streams_are_uniform_and_independent() -> None:
    """Within a word, from word to word, from owner to owner."""
    owners, n = np.arange(200, dtype=np.int64), 2_000
    keys = bits(7, Purpose.PLUGIN, 1, owners, np.zeros(1, np.int64))
    numbers = stream(keys, np.full(200, n)).view(np.uint16).reshape(200, 4 * n)
    flat = (numbers.astype(float) + 0.5) / 2**16
    assert stats.chisquare(np.bincount(numbers.ravel() >> 8)).pvalue > 0.001
    size = np.sqrt(flat.size)
    assert abs(flat.mean() - 1 / 2) < 4 * np.sqrt(1 / 12) / size
    assert abs(flat.var() - 1 / 12) < 4 * np.sqrt(1 / 180) / size
    centred = (flat - 1 / 2) * np.sqrt(12)
    for other in (1, 2, 3, 4, 8):
        assert abs((centred[:, other:] * centred[:, :-other]).mean()) < 4.5 / size
    assert abs((centred[1:] * centred[:-1]).mean()) < 4.5 / size
