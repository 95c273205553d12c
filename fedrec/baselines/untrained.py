"""Popularity and random scores: what a ranking reaches that knows nothing of the user."""

import numpy as np

from fedrec.baselines.base import Baseline, Scorer
from fedrec.seeds import Purpose, uniform
from fedrec.types import FloatArray, IntArray, Split


class Popularity(Baseline):
    r"""Score of an item: the number of its train interactions.

    .. math:: s_{ui} = |\{v : i \in T_v\}|

    with :math:`T_v` the train items of user v. Centralised, and the same for every user.
    """

    def fit(self, split: Split, seed: int) -> Scorer:
        """Count; the seed is not used."""
        counts = np.bincount(split.train.values, minlength=split.n_items).astype(np.float32)
        return lambda users: np.tile(counts, (len(users), 1))


class RandomScores(Baseline):
    r"""Independent uniform scores, hashed from (seed, user, item).

    .. math:: s_{ui} \sim U(0, 1)

    So a user's scores do not depend on which users are scored together with it.
    """

    def fit(self, split: Split, seed: int) -> Scorer:
        """Learn nothing; the split gives only the size of the catalogue."""
        items = np.arange(split.n_items, dtype=np.int64)

        def scores(users: IntArray) -> FloatArray:
            drawn = uniform(seed, Purpose.BASELINE, 0, users[:, None], items[None, :])
            return np.asarray(drawn, dtype=np.float32)

        return scores
