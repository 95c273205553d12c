"""Random scores: what a ranking without any knowledge reaches."""

import numpy as np

from fedrec.baselines.base import Baseline, Scorer
from fedrec.seeds import Purpose, uniform
from fedrec.types import FloatArray, IntArray, Split


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
