"""Secrets in shares: enough of them give the secret back, fewer say nothing about it."""

import hashlib
from collections.abc import Mapping

import numpy as np
from Crypto.Protocol.SecretSharing import Shamir

from fedrec.secure_sum.keys import SEED
from fedrec.secure_sum.messages import ByteArray
from fedrec.secure_sum.session import bound


def split(secret: bytes, threshold: int, n: int) -> ByteArray:
    """Return n shares of a secret of 16 bytes, uint8 [n, 16].

    Args:
        secret: 16 random bytes.
        threshold: How many shares give it back.
        n: Number of shares.

    Reference: shamir1979share.
    """
    shares = b"".join(share for _, share in Shamir.split(threshold, n, secret, ssss=False))
    return np.frombuffer(shares, np.uint8).reshape(n, SEED)


def combined(shares: Mapping[int, bytes]) -> bytes:
    """Return the 16 bytes of which these are shares; other bytes if one is not.

    Args:
        shares: As many as the threshold, by their place from 0.
    """
    return Shamir.combine([(place + 1, share) for place, share in shares.items()], ssss=False)


def commitment(digest: bytes, client: int, seed: bytes) -> bytes:
    """Return 32 bytes by which a secret of 16 random bytes is known when it is given back.

    Args:
        digest: Of the session.
        client: Whose it is.
        seed: The secret.
    """
    return hashlib.sha256(bound(digest, "commitment", client) + seed).digest()
