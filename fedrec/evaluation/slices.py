"""Held-out items by how often they are trained on, and which items they are ranked among.

Warm items are in somebody's train items, cold ones in nobody's. Each user has one ranking of the
warm items, in which head and tail items have their ranks; cold ones compete with each other, or
with all items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrec.evaluation.ranking import PARTS, Part, Scores, mask_of
from fedrec.ragged import Ragged
from fedrec.types import IntArray, Shard, Split

Slice: TypeAlias = Literal["head", "tail", "cold", "cold_among_all"]
SLICES: tuple[Slice, ...] = get_args(Slice)
HEAD_SHARE = 0.2
Mask: TypeAlias = NDArray[np.bool_]


def sliced(label: str, name: str) -> str:
    """Return the label of a metric in a slice, ``ndcg@10[tail]``; "" is for the ordinary one."""
    return f"{label}[{name}]" if name else label


@dataclass(frozen=True, slots=True)
class Slices:
    """Which slices are measured, and which items they hold.

    Args:
        names: the slices.
        is_cold: bool [n_items], the items that nobody has among its train items.
        is_head: bool [n_items], the fifth of the others with the most train items; of items with
            equally many, those with the lowest indices.
        pools: per part, int64, sorted: the cold items that somebody has held out in it.
    """

    names: tuple[Slice, ...]
    is_cold: Mask
    is_head: Mask
    pools: Mapping[Part, IntArray]

    @classmethod
    def of(cls, split: Split, names: Sequence[Slice]) -> "Slices":
        """Sort the items of a split into slices."""
        counts = split.train_counts()
        is_cold, is_head = counts == 0, np.zeros(split.n_items, np.bool_)
        n_head = max(1, round(HEAD_SHARE * np.count_nonzero(counts)))
        is_head[np.argsort(-counts, kind="stable")[:n_head]] = True
        held_out = {"valid": split.valid.values, "test": split.test.values}
        pools = {part: np.unique(held_out[part][is_cold[held_out[part]]]) for part in PARTS}
        return cls(tuple(names), is_cold, is_head & ~is_cold, pools)

    def items(self, name: Slice) -> Mask:
        """Return bool [n_items], which items a slice holds."""
        if name == "head":
            return self.is_head
        return ~(self.is_head | self.is_cold) if name == "tail" else self.is_cold


@dataclass(frozen=True, slots=True)
class Ranking:
    """Items that compete with each other in one list per user.

    Args:
        items: int64 [n], sorted, the items; what follows are places among them.
        train: one row per user: items that it does not rank. In the test, nor those of ``valid``.
        valid: one row per user: its held-out items.
        test: likewise.
        slices: per slice whose items have their ranks here, bool [n]: which items it holds; "" for
            what is no slice; None: all items.
        parts: for which they have them.
        lists: whether it matters what leads the lists.
        targets: one row per user: its target items; None: none have their ranks here.
    """

    items: IntArray
    train: Ragged
    valid: Ragged
    test: Ragged
    slices: Mapping[str, Mask | None]
    parts: tuple[Part, ...] = PARTS
    lists: bool = False
    targets: Ragged | None = None

    def columns(self, scores: Scores) -> Scores:
        """Return the scores of the items, float [b, n], among those of all items."""
        if scores.shape[1] == len(self.items):
            return scores
        if isinstance(scores, Tensor):
            return scores[:, torch.as_tensor(self.items)]
        return scores[:, self.items]

    def take(self, users: IntArray) -> tuple[Ragged, Ragged, Ragged]:
        """Return the train, validation and test rows of some users."""
        return self.train.take(users), self.valid.take(users), self.test.take(users)

    def names(self, part: Part) -> tuple[str, ...]:
        """Return the slices whose items have their ranks for a part here."""
        return tuple(self.slices) if part in self.parts else ()

    def left(self, part: Part) -> IntArray:
        """Return how many items each user ranks for a part, held-out items among them."""
        return len(self.items) - mask_of(part, self.train, self.valid).lengths

    def of_slice(self, part: Part, name: str, values: IntArray | None = None) -> Ragged:
        """Return one row per user: its held-out items of a part that are in a slice.

        Args:
            part: which part.
            name: a key of ``slices``.
            values: int64 [held out], what is returned in the place of each item.
        """
        rows, chosen = self.valid if part == "valid" else self.test, self.slices[name]
        replaced = rows if values is None else Ragged(rows.offsets, values)
        return replaced if chosen is None else replaced.where(chosen[rows.values])


def rankings_of(
    rows: Split | Shard, slices: Slices | None, targets: Ragged | None = None
) -> list[Ranking]:
    """Return the rankings that every user makes; the first is the one without slices.

    Args:
        rows: the users and their items.
        slices: what is measured; None: all items are ranked together, and no slice is measured.
        targets: one row per user: target items, warm ones with slices; they have their ranks in
            the first ranking.
    """
    everything, parts = np.arange(rows.n_items), (rows.train, rows.valid, rows.test)
    if slices is None:
        return [Ranking(everything, *parts, {"": None}, lists=True, targets=targets)]
    warm = np.flatnonzero(~slices.is_cold)
    of_warm: dict[str, Mask | None] = {"": None}
    for name in slices.names:
        if name in ("head", "tail"):
            of_warm[name] = slices.items(name)[warm]
    if targets is not None:
        targets = _within(targets, _places(rows.n_items, warm))
    rankings = [Ranking(warm, *_among(rows, warm), of_warm, lists=True, targets=targets)]
    if "cold" in slices.names:
        for part in PARTS:
            pool = slices.pools[part]
            rankings.append(Ranking(pool, *_among(rows, pool), {"cold": None}, (part,)))
    if "cold_among_all" in slices.names:
        of_all = {"cold_among_all": slices.is_cold}
        rankings.append(Ranking(everything, *parts, of_all, lists=True))
    return rankings


def list_lengths(
    rows: Split | Shard, slices: Slices | None
) -> dict[str, dict[Part, tuple[IntArray, IntArray]]]:
    """Return how long the lists of all users are.

    Args:
        rows: the users and their items.
        slices: what is measured.

    Returns:
        Per slice ("" first) and part, int64 [u]: how many items each user ranks, and how many of
        them are held out and in the slice.
    """
    lengths: dict[str, dict[Part, tuple[IntArray, IntArray]]] = {}
    for ranking in rankings_of(rows, slices):
        for part in ranking.parts:
            for name in ranking.slices:
                held_out = ranking.of_slice(part, name).lengths
                lengths.setdefault(name, {})[part] = ranking.left(part), held_out
    return lengths


def _among(rows: Split | Shard, items: IntArray) -> tuple[Ragged, Ragged, Ragged]:
    """Return train, validation and test rows as places among some items, the others left out."""
    places = _places(rows.n_items, items)
    return _within(rows.train, places), _within(rows.valid, places), _within(rows.test, places)


def _places(n_items: int, items: IntArray) -> IntArray:
    """Return where each item of the catalogue stands among some, -1 for the others."""
    places = np.full(n_items, -1, np.int64)
    places[items] = np.arange(len(items))
    return places


def _within(part: Ragged, places: IntArray) -> Ragged:
    values = places[part.values]
    return Ragged(part.offsets, values).where(values >= 0)
