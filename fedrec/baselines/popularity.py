"""Popularity: everybody is shown what most others took."""

import numpy as np

from fedrec.baselines.base import Baseline, Scorer
from fedrec.types import Split


class Popularity(Baseline):
    r"""Score of an item: the number of its train interactions.

    .. math:: s_{ui} = |\{v : i \in T_v\}|

    with :math:`T_v` the train items of user v. Centralised, and the same for every user.
    """

    def fit(self, split: Split, seed: int) -> Scorer:
        """Count; the seed is not used."""
        counts = np.bincount(split.train.values, minlength=split.n_items).astype(np.float32)
        return lambda users: np.tile(counts, (len(users), 1))
