import numpy as np
from vbpr import VBPR

from fedrec.data.negatives import uniform_negatives


class OfTheSameGenre(VBPR):
    """Of two negatives, train on the one whose content is more like the positive's."""

    def negatives(self, hashed, users, positives, excluded, n_items, catalogue):
        content = catalogue.feature(self.feature)
        words = (hashed >> np.uint64(32)).astype(np.uint32), hashed.astype(np.uint32)
        pair = np.stack([uniform_negatives(word, users, excluded, n_items) for word in words])
        likeness = (content[pair] * content[positives]).sum(-1)
        return np.where(likeness[0] >= likeness[1], *pair)
