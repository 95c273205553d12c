"""Masks: numbers that look random without their key, added and taken away modulo 2**64."""

from collections.abc import Iterable
from itertools import islice

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

_SLICE = 2**15
"""Numbers that are added at once, so that they stay in the cache."""
_TOGETHER = 256
"""Masks that are added at once: each has a cipher that is under way."""
_START = bytes(16)  # every key makes one mask only


def mask_sum(masks: Iterable[tuple[bytes, bool]], size: int) -> NDArray[np.uint64]:
    """Return the sum of some masks modulo 2**64, uint64 [size].

    A mask is the key stream of ChaCha20, read as little-endian numbers.

    Args:
        masks: The key of each, 32 bytes, and whether it is added or taken away.
        size: How many numbers.
    """
    total, each = np.zeros(size, np.uint64), iter(masks)
    stream = np.empty(_SLICE, "<u8")
    zeros, into = bytes(stream.nbytes), stream.view(np.uint8).data
    while some := [
        (Cipher(algorithms.ChaCha20(key, _START), None).encryptor(), is_added)
        for key, is_added in islice(each, _TOGETHER)
    ]:
        for start in range(0, size, _SLICE):
            part = total[start : start + _SLICE]
            n = part.nbytes
            for cipher, is_added in some:
                cipher.update_into(zeros if n == len(zeros) else zeros[:n], into[:n])
                operation = np.add if is_added else np.subtract
                operation(part, stream[: len(part)], out=part)
    return total
