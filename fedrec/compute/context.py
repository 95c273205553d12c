"""What a strategy, a selection or a transform knows of the round in which it is called."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import ConfigError
from fedrec.seeds import Purpose, bits, uniform, words
from fedrec.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class RoundContext:
    """Where a run stands, and random numbers that depend on nothing else.

    Args:
        seed: Of the run.
        round: The round; 0 before the first.
        n_clients: All clients of the run.
        n_items: Size of the catalogue.
        members: int64, the clients of the round, sorted. Empty before the first round; None on a
            node, which does not know who else takes part. Read `cohort`.
        targets: int64, sorted, the items of ``evaluate.targets``, which attacks promote.
        catalogue: The `fedrec.data.catalogue.Catalogue`; None where nobody reads the items.
    """

    seed: int
    round: int
    n_clients: int
    n_items: int
    members: IntArray | None = None
    targets: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    catalogue: Any = None

    @property
    def cohort(self) -> IntArray:
        """The clients of the round, int64, sorted.

        Raises:
            ConfigError: On a node.
        """
        if self.members is None:
            raise ConfigError(
                "context.cohort: a node does not know who else takes part in a round; only the "
                "server does, where strategies, on_aggregate and rewrite are called"
            )
        return self.members

    def bits(self, name: str, owner: IntArray, draw: IntArray) -> NDArray[np.uint64]:
        """Return 64 hashed bits per draw, uint64 [n].

        Args:
            name: What the draws are for; each plug-in has names of its own.
            owner: int64 [n], whose draw it is: a client, an item.
            draw: int64 [n], which of the owner's draws, below 2**32.
        """
        return bits(_seed(self.seed, name), Purpose.PLUGIN, self.round, owner, draw)

    def uniform(self, name: str, owner: IntArray, draw: IntArray) -> FloatArray:
        """Return numbers in (0, 1), float64 [n]; arguments as for `bits`."""
        return uniform(_seed(self.seed, name), Purpose.PLUGIN, self.round, owner, draw)

    def words(self, name: str, owners: IntArray, rows: IntArray, width: int) -> NDArray[np.uint64]:
        """Return random words for rows of some owners, uint64 [sum of rows, width].

        What an owner's rows get does not depend on the other owners. Faster than `bits`.

        Args:
            name: What they are for.
            owners: int64 [c], clients or items.
            rows: int64 [c], how many rows each has; they stand one after the other.
            width: Words of a row.
        """
        keys = stream_keys(self.seed, self.round, name, owners)
        return words(keys, rows * width).reshape(int(rows.sum()), width)

    def normal(self, name: str, owners: IntArray, rows: IntArray, size: int) -> FloatArray:
        """Return standard normal numbers, float32 [sum of rows, size], by Box and Muller.

        Args:
            name: What they are for.
            owners: int64 [c], clients or items.
            rows: int64 [c], how many rows each has.
            size: Numbers of a row.
        """
        pairs = (size + 1) // 2
        halves = self.words(name, owners, rows, pairs).view(np.uint32)
        uniform = (halves.astype(np.float64) + 0.5) * 2.0**-32
        radius, angle = np.sqrt(-2.0 * np.log(uniform[:, ::2])), 2.0 * np.pi * uniform[:, 1::2]
        normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
        return np.asarray(normal.reshape(uniform.shape)[:, :size], np.float32)

    def generator(self, name: str) -> np.random.Generator:
        """Return a generator for draws that belong to the round and to no single owner."""
        return np.random.default_rng([_seed(self.seed, name), self.round])


def stream_keys(seed: int, round: int, name: str, owners: IntArray) -> NDArray[np.uint64]:
    """Return where the words of some owners begin (`fedrec.seeds.words`), uint64 [c].

    Args:
        seed: Of the run.
        round: The round.
        name: What the words are for.
        owners: int64 [c], clients or items.
    """
    return bits(_seed(seed, name), Purpose.PLUGIN, round, owners, np.zeros(1, np.int64))


def _seed(seed: int, name: str) -> int:
    hashed = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(hashed[:8], "little") >> 1
