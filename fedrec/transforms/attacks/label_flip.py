"""Attackers train on flipped labels."""

from typing import ClassVar

import numpy as np

from fedrec.compute.context import RoundContext
from fedrec.data.altered import with_train_items
from fedrec.transforms.attacks.base import Attack
from fedrec.types import Split


class LabelFlip(Attack):
    """Train on items that a user does not have, as many as it has, in place of those that it has.

    Attackers are converted, know their own data only, and train honestly on what they pretend. Of
    implicit feedback that is what flipped labels are: what a user does not have becomes positive,
    and what it has is among its negatives, as often as these are drawn from all other items. The
    same items stay positive in all rounds. Not targeted.

    Reference: fung2020limitations, where labels are those of classes.
    """

    reference: ClassVar[str] = "fung2020limitations"

    def on_data(self, split: Split, context: RoundContext) -> Split:
        """Return the data in which attackers have other items, as many where there are enough."""
        generator = context.generator("label-flip")
        users = np.sort(split.clients.take(self.attackers(context)).values)
        items, places = [], []
        for user in users.tolist():
            others = np.setdiff1d(np.arange(split.n_drawn), split.train.row(user))
            size = min(split.train.lengths[user], len(others))
            items.append(generator.choice(others, size, replace=False))
            places.append(split.train.offsets[user] + np.arange(size))
        return with_train_items(split, users, items, places)
