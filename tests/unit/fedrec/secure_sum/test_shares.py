import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.secure_sum.session import Session
from fedrec.secure_sum.shares import combined, commitment, split


@given(st.data())
def test_any_shares_give_the_secret_back_if_they_are_enough(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 12))
    threshold = data.draw(st.integers(2, n))
    secret = os.urandom(16)
    shares = split(secret, threshold, n)
    places = data.draw(st.permutations(range(n)))
    assert shares.shape == (n, 16)
    assert combined({place: bytes(shares[place]) for place in places[:threshold]}) == secret
    assert combined({place: bytes(shares[place]) for place in places[1:threshold]}) != secret


@pytest.mark.parametrize("byte", [0, 15])
def test_a_changed_share_gives_another_secret(byte: int) -> None:
    secret = os.urandom(16)
    shares = split(secret, 3, 5).copy()
    shares[1, byte] ^= 1
    chosen = {place: bytes(shares[place]) for place in (0, 1, 4)}
    assert combined(chosen) != secret
    assert combined({**chosen, 1: bytes(shares[2])}) != secret  # the share of another place


def test_shares_are_drawn_anew() -> None:
    secret = os.urandom(16)
    assert (split(secret, 2, 3) != split(secret, 2, 3)).any(1).all()


def test_a_commitment_is_to_one_secret_of_one_client_in_one_session() -> None:
    secret, digest = os.urandom(16), Session("a", 1).digest()
    made = {
        commitment(digest, 1, secret),
        commitment(digest, 2, secret),
        commitment(digest, 1, os.urandom(16)),
        commitment(Session("a", 2).digest(), 1, secret),
    }
    assert len(made) == 4
    assert commitment(digest, 1, secret) in made
