"""A made data set whose true scores are known."""

import hashlib
import json

import numpy as np
from pydantic import Field

from fedrec.data.base import DataSet
from fedrec.ragged import offsets_of
from fedrec.types import FloatArray, IntArray, Interactions

FORMAT = 1
MIN_PER_USER = 3
START, STEP = 1_000_000_000, 60


class Synthetic(DataSet):
    """Groups of users with the same taste; tastes and items are vectors of a low rank.

    The score of an item for a group is the product of their vectors, scaled so that its standard
    deviation is ``sharpness``. A user draws distinct items one after the other, each with
    probability proportional to exp(score), or, with probability ``noise``, uniformly. The order
    in time is random, so a held-out item is as likely a good one as any other.

    Args:
        users: number of users, up to millions.
        items: size of the catalogue.
        taste_groups: number of groups; some stay empty where there are more than users.
        rank: length of the vectors.
        sharpness: how much the good items stand out; 0 for none at all.
        interactions_per_user: mean, before it is cut to between 3 and half the catalogue.
        spread: standard deviation of the logarithm of the interactions per user.
        noise: share of draws that ignore taste.
        seed: of everything; not the run's seed.
    """

    users: int = Field(1000, ge=1)
    items: int = Field(500, ge=2 * MIN_PER_USER)
    taste_groups: int = Field(8, ge=1)
    rank: int = Field(6, ge=1)
    sharpness: float = Field(1.5, ge=0, le=20)
    interactions_per_user: float = Field(30.0, gt=0)
    spread: float = Field(0.5, ge=0, le=5)
    noise: float = Field(0.1, ge=0, le=1)
    seed: int = Field(0, ge=0)

    def load(self) -> Interactions:
        """Draw all interactions. Raw ids are the indices; the user column is ``taste_group``."""
        rng = self._generator(1)
        mean = np.log(self.interactions_per_user) - self.spread**2 / 2
        counts = rng.lognormal(mean, self.spread, self.users)
        limit = max(MIN_PER_USER, self.items // 2)
        lengths = np.clip(np.rint(counts), MIN_PER_USER, limit).astype(np.int64)
        groups = self.groups()
        at_once = max(1, 500_000 // int(self.interactions_per_user + 1))
        items = [
            self._draw(rng, groups[start : start + at_once], lengths[start : start + at_once])
            for start in range(0, self.users, at_once)
        ]
        owners = np.repeat(np.arange(self.users, dtype=np.int64), lengths)
        # Each user's items stand in random order here, which is also their order in time.
        place = np.arange(len(owners)) - offsets_of(lengths)[owners]
        start = rng.integers(START, START + 10**7, self.users)
        return Interactions(
            users=owners,
            items=np.concatenate(items),
            ratings=None,
            timestamps=(start[owners] + STEP * place).astype(np.float64),
            user_ids=np.arange(self.users).astype(np.str_),
            item_ids=np.arange(self.items).astype(np.str_),
            user_columns={"taste_group": groups.astype(np.str_)},
            name="synthetic",
        )

    def fingerprint(self) -> str:
        """Return a hash of the parameters."""
        fields = self.model_dump(mode="json", exclude=set(DataSet.model_fields))
        return hashlib.sha256(json.dumps([FORMAT, fields]).encode()).hexdigest()

    def groups(self) -> IntArray:
        """Return int64 [users], the taste group of each user; sizes differ by one at most."""
        return self._generator(2).permutation(self.users) % self.taste_groups

    def true_scores(self) -> FloatArray:
        """Return float64 [users, items], the planted scores by raw ids, of ``rank`` at most."""
        return self._group_scores()[self.groups()]

    def _generator(self, purpose: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, purpose])))

    def _group_scores(self) -> FloatArray:
        rng = self._generator(3)
        tastes = rng.standard_normal((self.taste_groups, self.rank))
        vectors = rng.standard_normal((self.items, self.rank))
        scores = tastes @ vectors.T
        return scores * (self.sharpness / max(float(scores.std()), 1e-12))

    def _draw(self, rng: np.random.Generator, groups: IntArray, lengths: IntArray) -> IntArray:
        """Return int64 [sum of lengths]: distinct items of each user, in random order."""
        shares = np.exp(self._group_scores())
        shares = (1 - self.noise) * shares / shares.sum(axis=1, keepdims=True)
        shares += self.noise / self.items
        # One cumulative sum over all groups: group g's items lie between g and g + 1.
        ends = np.cumsum(shares / shares.sum(axis=1, keepdims=True), axis=1)
        ends[:, -1] = 1.0
        ends = (ends + np.arange(self.taste_groups)[:, None]).ravel()
        complete, keys = [], np.empty(0, np.int64)
        missing = lengths
        for _ in range(6):
            owners = np.repeat(np.arange(len(groups)), missing + missing // 2)
            at = np.searchsorted(ends, groups[owners] + rng.random(len(owners)), side="right")
            drawn = owners * self.items + np.minimum(at, len(ends) - 1) % self.items
            keys = _first_distinct(keys, drawn, lengths, self.items)
            counts = np.bincount(keys // self.items, minlength=len(lengths))
            missing = np.where(missing > 0, lengths - counts, 0)
            is_short = missing[keys // self.items] > 0
            complete.append(keys[~is_short])
            keys = keys[is_short]
        complete.append(keys)
        # What a few users still miss. The items that come first in a race of exponentials are
        # distributed as successive draws without replacement, so this goes on exactly.
        for user in np.flatnonzero(missing).tolist():
            race = rng.standard_exponential(self.items) / np.maximum(shares[groups[user]], 1e-300)
            race[keys[keys // self.items == user] % self.items] = np.inf
            complete.append(user * self.items + np.argsort(race)[: missing[user]])
        keys = np.concatenate(complete)
        return keys[np.argsort(keys // self.items + rng.random(len(keys)))] % self.items


def _first_distinct(keys: IntArray, drawn: IntArray, lengths: IntArray, items: int) -> IntArray:
    """Return the keys and the first new ones of each user, as many as it may have, sorted."""
    together = np.concatenate([keys, drawn])
    distinct, first = np.unique(together, return_index=True)
    owners = distinct // items
    by_owner = np.argsort(owners * len(together) + first)
    starts = offsets_of(np.bincount(owners, minlength=len(lengths)))[:-1]
    place = np.arange(len(by_owner)) - starts[owners]
    return np.sort(distinct[by_owner[place < lengths[owners]]])
