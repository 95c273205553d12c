"""What one secure sum is called, so that nothing of another is taken for it."""

import hashlib
import json
from dataclasses import astuple, dataclass

from fedrec.errors import printable


@dataclass(frozen=True, slots=True)
class Session:
    """Which secure sum it is: no two may have the same name.

    Args:
        run: name of the run, and which start of it.
        round: the round.
        group: of the strategy, whose updates are summed.
        attempt: of the same sum.
    """

    run: str
    round: int
    group: int = 0
    attempt: int = 0

    def __str__(self) -> str:
        run = printable(self.run)
        return f"round {self.round} of run '{run}', group {self.group}, attempt {self.attempt}"

    def digest(self) -> bytes:
        """Return 32 bytes that stand for it."""
        return hashlib.sha256(json.dumps(astuple(self)).encode()).digest()


def bound(digest: bytes, purpose: str, *clients: int) -> bytes:
    """Return what a key is bound to: the session, what it is for, and the clients it is of.

    Args:
        digest: Of the session.
        purpose: What the key is for; without a space.
        clients: In an order that means something.
    """
    return digest + " ".join([purpose, *map(str, clients)]).encode()
