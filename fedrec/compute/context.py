"""What a strategy, a selection or a transform knows of the round in which it is called."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.seeds import Purpose, bits, uniform
from fedrec.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class RoundContext:
    """Where a run stands, and random numbers that depend on nothing else.

    Args:
        seed: Of the run.
        round: The round; 0 before the first.
        n_clients: All clients of the run.
        n_items: Size of the catalogue.
        cohort: int64, the clients of the round, sorted. Empty before the first round, and on a
            node, which does not know who else takes part.
        targets: int64, sorted, the items of ``evaluate.targets``, which attacks promote.
        catalogue: The `fedrec.data.catalogue.Catalogue`; None where nobody reads the items.
    """

    seed: int
    round: int
    n_clients: int
    n_items: int
    cohort: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    targets: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    catalogue: Any = None

    def bits(self, name: str, owner: IntArray, draw: IntArray) -> NDArray[np.uint64]:
        """Return 64 hashed bits per draw, uint64 [n].

        Args:
            name: What the draws are for; each plug-in has names of its own.
            owner: int64 [n], whose draw it is: a client, an item.
            draw: int64 [n], which of the owner's draws, below 2**32.
        """
        return bits(self._seed(name), Purpose.PLUGIN, self.round, owner, draw)

    def uniform(self, name: str, owner: IntArray, draw: IntArray) -> FloatArray:
        """Return numbers in (0, 1), float64 [n]; arguments as for `bits`."""
        return uniform(self._seed(name), Purpose.PLUGIN, self.round, owner, draw)

    def words(self, name: str, owner: int, n: int) -> NDArray[np.uint64]:
        """Return many random words of one owner at once, uint64 [n]; faster than `bits`.

        Args:
            name: What they are for.
            owner: A client or an item, below 2**40.
            n: How many.
        """
        key = [self._seed(name), (self.round << 40) | owner]
        return np.random.Philox(key=np.array(key, np.uint64)).random_raw(n)

    def normal(self, name: str, owner: int, n: int) -> FloatArray:
        """Return standard normal numbers of one owner, float32 [n], by Box and Muller."""
        halves = self.words(name, owner, (n + 1) // 2).view(np.uint32).reshape(-1, 2)
        uniform = (halves.astype(np.float64) + 0.5) * 2.0**-32
        radius, angle = np.sqrt(-2.0 * np.log(uniform[:, 0])), 2.0 * np.pi * uniform[:, 1]
        pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return np.asarray(pairs.ravel()[:n], np.float32)

    def generator(self, name: str) -> np.random.Generator:
        """Return a generator for draws that belong to the round and to no single owner."""
        return np.random.default_rng([self._seed(name), self.round])

    def _seed(self, name: str) -> int:
        hashed = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return int.from_bytes(hashed[:8], "little") >> 1
