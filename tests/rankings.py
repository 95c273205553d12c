"""Random users with scores full of ties, for tests of ranking and evaluation."""

from collections.abc import Mapping

import numpy as np
from hypothesis import strategies as st

from fedrec.evaluation.ranking import Part
from fedrec.ragged import Ragged, offsets_of
from fedrec.types import Shard


def ragged(rows: list[list[int]]) -> Ragged:
    values = np.array([value for row in rows for value in row], np.int64)
    return Ragged(offsets_of(np.array([len(row) for row in rows], np.int64)), values)


class World:
    """Random users with train, validation and test items, and scores full of ties."""

    def __init__(self, seed: int, n_users: int, n_items: int, levels: int) -> None:
        rng = np.random.default_rng(seed)
        self.n_items = n_items
        self.scores = rng.integers(0, levels, (n_users, n_items)).astype(np.float32)
        self.scores[rng.random(self.scores.shape) < 0.05] = -np.inf
        parts: list[list[list[int]]] = [[], [], []]
        for _ in range(n_users):
            items_of_user = rng.permutation(n_items)[: rng.integers(0, n_items + 1)]
            cuts = np.sort(rng.integers(0, len(items_of_user) + 1, 2))
            for part, items in zip(parts, np.split(items_of_user, cuts), strict=True):
                part.append(sorted(items.tolist()))
        self.train, self.valid, self.test = (ragged(part) for part in parts)
        self.parts: Mapping[Part, Ragged] = {"valid": self.valid, "test": self.test}

    def shard(self) -> Shard:
        n = len(self.train)
        users = np.arange(n, dtype=np.int64)[::-1].copy()  # user rows need not be sorted
        return Shard(
            n_items=self.n_items,
            client_ids=np.arange(n, dtype=np.int64),
            client_offsets=np.arange(n + 1, dtype=np.int64),
            user_ids=users,
            train=self.train.take(users),
            valid=self.valid.take(users),
            test=self.test.take(users),
        )


worlds = st.builds(
    World,
    seed=st.integers(0, 2**31),
    n_users=st.integers(1, 12),
    n_items=st.integers(1, 25),
    levels=st.sampled_from([1, 2, 5, 1000]),
)
