"""Keys of a client for one session, and what two clients derive from them.

Keys are fresh: a secret that is given back after a drop-out opens one session and no other.
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedrec.errors import ProtocolError
from fedrec.secure_sum.session import bound

KEY = 32
"""Bytes of a key."""
SEED = 16
"""Bytes of a secret from which a key is derived, and which is shared out."""
SEALED = 28
"""Bytes by which a sealed text is longer."""

_NONCE = 12


def derived(secret: bytes, info: bytes) -> bytes:
    """Return a key that is derived from a secret for one purpose.

    Args:
        secret: Random bytes.
        info: What the key is bound to, see `fedrec.secure_sum.session.bound`.
    """
    return HKDF(algorithm=hashes.SHA256(), length=KEY, salt=None, info=info).derive(secret)


def mask_key(digest: bytes, client: int, seed: bytes) -> X25519PrivateKey:
    """Return the private key with which a client agrees on masks.

    Args:
        digest: Of the session.
        client: Whose it is.
        seed: The secret that the neighbours hold shares of.
    """
    return X25519PrivateKey.from_private_bytes(derived(seed, bound(digest, "mask-key", client)))


def self_mask(digest: bytes, client: int, seed: bytes) -> bytes:
    """Return the key of the mask that a client adds beside those it shares; as for `mask_key`."""
    return derived(seed, bound(digest, "self-mask", client))


def pair_mask(
    digest: bytes, client: int, key: X25519PrivateKey, other: int, public: bytes
) -> bytes:
    """Return the key of the mask of two clients, the same on either side.

    Args:
        digest: Of the session.
        client: One of them.
        key: Its `mask_key`.
        other: The other.
        public: The other's public key.

    Raises:
        ProtocolError: If the public key is none.
    """
    info = bound(digest, "pair-mask", min(client, other), max(client, other))
    return derived(_agreed(key, other, public), info)


class Channel:
    """What one client sends to another through the server, sealed.

    Args:
        digest: Of the session.
        client: Who seals and opens.
        key: Its private key for channels.
        other: The other client.
        public: The other's public key for channels.

    Raises:
        ProtocolError: If the public key is none.
    """

    def __init__(
        self, digest: bytes, client: int, key: X25519PrivateKey, other: int, public: bytes
    ) -> None:
        self._digest, self._client, self._other = digest, client, other
        self._agreed = _agreed(key, other, public)

    def seal(self, text: bytes, seen: bytes) -> bytes:
        """Return a text, encrypted for the other client.

        Args:
            text: What to send.
            seen: What both must have seen alike.
        """
        nonce = os.urandom(_NONCE)  # who is asked again seals other shares with the same key
        return nonce + self._cipher(self._client, self._other).encrypt(nonce, text, seen)

    def open(self, sealed: bytes, seen: bytes) -> bytes:
        """Return the text that the other client sealed.

        Raises:
            ProtocolError: If it was sealed by another, for another or in another session, was
                changed, or the two have not seen the same.
        """
        try:
            cipher = self._cipher(self._other, self._client)
            return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], seen)
        except InvalidTag as error:
            raise ProtocolError(
                f"secure sum: client {self._client} cannot open the shares of client "
                f"{self._other}: they or a public key were changed on the way, or are of another "
                f"round; repeat the round, without client {self._other} if it happens again"
            ) from error

    def _cipher(self, sender: int, receiver: int) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(
            derived(self._agreed, bound(self._digest, "channel", sender, receiver))
        )


def _agreed(key: X25519PrivateKey, other: int, public: bytes) -> bytes:
    try:
        return key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise ProtocolError(
            f"secure sum: the public key of client {other} is none; repeat the round, without the "
            "client if it happens again"
        ) from error
