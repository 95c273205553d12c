import os

import numpy as np
import pytest
from Crypto.Cipher import ChaCha20

from fedrec.secure_sum.masks import mask_sum

SIZES = [0, 1, 7, 2**15 - 1, 2**15, 2**15 + 1, 100_003]


def stream(key: bytes, size: int) -> list[int]:
    """Return the key stream as another library makes it."""
    text = ChaCha20.new(key=key, nonce=bytes(12)).encrypt(bytes(8 * size))
    return [int.from_bytes(text[at : at + 8], "little") for at in range(0, len(text), 8)]


@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_sum_of_key_streams(size: int) -> None:
    masks = [(os.urandom(32), True), (os.urandom(32), False), (os.urandom(32), True)]
    streams = [stream(key, size) for key, _ in masks]
    expected = [(a - b + c) % 2**64 for a, b, c in zip(*streams, strict=True)]
    total = mask_sum(masks, size)
    assert total.dtype == np.uint64
    assert total.tolist() == expected


@pytest.mark.parametrize("n", [1, 256, 257])
def test_masks_cancel(n: int) -> None:
    keys = [os.urandom(32) for _ in range(n)]
    both = [(key, is_added) for is_added in (True, False) for key in keys]
    assert not mask_sum(both, 1000).any()
    assert mask_sum(both[:-1], 1000).all()


def test_no_mask_is_zero() -> None:
    assert not mask_sum([], 5).any()
