"""Where held-out items stand in the ranking of the catalogue, and which items lead it.

This is the definition, user by user; `fedrec.evaluation.counting` gives the same integers faster.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedrec.compute.device import to_array
from fedrec.data.negatives import uniform_negatives
from fedrec.errors import ConfigError, NumericError
from fedrec.personalization.base import View
from fedrec.ragged import Ragged, offsets_of
from fedrec.types import FloatArray, IntArray

Part: TypeAlias = Literal["valid", "test"]
PARTS: tuple[Part, ...] = get_args(Part)

Scores: TypeAlias = Tensor | FloatArray
"""The scores of some users for the whole catalogue, float [b, n_items]."""

LEGACY_CANDIDATES = 99
"""Items that compete with the held-out one in the published protocol."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the held-out items of some users stand, and what stands first.

    Args:
        ranks: per view and part, int64 [held out]: the rank of each held-out item, user after user.
        top: int64 [b, k], by the view ``mixed``: the top list of each user that has test items,
            padded with -1; only -1 for the others.
        targets: per view, int64 [targets]: the rank of each target item, user after user.
    """

    ranks: Mapping[View, Mapping[Part, IntArray]]
    top: IntArray
    targets: Mapping[View, IntArray]


def place_by_definition(
    views: Mapping[View, Scores],
    train: Ragged,
    valid: Ragged,
    test: Ragged,
    k: int = 0,
    candidates: Mapping[Part, Ragged] | None = None,
    targets: Ragged | None = None,
) -> Placed:
    """Rank the held-out items and the target items of some users, and list what stands first.

    A target is ranked among the items that are left for the test, test items among them, and
    competes with these as any other item does.

    Args:
        views: per view, float [b, n_items]; infinite values are fine.
        train: one row per user: its train items, sorted; likewise ``valid`` and ``test``.
        valid: its validation items.
        test: its test items.
        k: length of the top lists; 0 for none.
        candidates: per part one row per user: the only items that compete with the held-out
            ones; None: all.
        targets: one row per user: target items, none of them among its others; None: there are
            none.

    Raises:
        NumericError: If a score is NaN.
    """
    excluded = {part: mask_of(part, train, valid) for part in PARTS}
    held_out = {"valid": valid, "test": test}
    ranks = {
        view: {
            part: ranks_of(
                scores, held_out[part], excluded[part], (candidates or {}).get(part)
            ).values
            for part in PARTS
        }
        for view, scores in views.items()
    }
    top = top_k(views["mixed"], excluded["test"], k)
    top[test.lengths == 0] = -1
    if targets is None:
        return Placed(ranks, top, {view: np.empty(0, np.int64) for view in views})
    of_targets = {
        view: ranks_of(scores, targets, excluded["test"]).values for view, scores in views.items()
    }
    return Placed(ranks, top, of_targets)


def mask_of(part: Part, train: Ragged, valid: Ragged) -> Ragged:
    """Return the items that a user does not rank: train items, for the test validation items too.

    Args:
        part: what is being ranked for.
        train: one row per user.
        valid: one row per user.

    Returns:
        One row per user, sorted.
    """
    if part == "valid":
        return train
    width = 1 + max(train.values.max(initial=0), valid.values.max(initial=0))
    keys_of = [rows.owners() * width + rows.values for rows in (train, valid)]
    keys = np.sort(np.concatenate(keys_of), kind="stable")  # which merges what is sorted already
    both = Ragged(train.offsets + valid.offsets, keys)
    return Ragged(both.offsets, keys - both.owners() * width)


def ranks_of(
    scores: Scores, relevant: Ragged, excluded: Ragged, candidates: Ragged | None = None
) -> Ragged:
    r"""Compute the ranks of the held-out items among the items that are not excluded.

    .. math:: r_{ui} = |\{j \in C_u : s_{uj} \ge s_{ui}\}| + p_{ui}

    with :math:`C_u` the items neither excluded nor relevant, and :math:`p_{ui}` the place, from
    1, of i among the user's relevant items by descending score, of equal ones by row. So ties of
    score are broken against the held-out item: constant scores give the worst ranks, not chance's.

    Args:
        scores: float [b, n_items]; infinite values are fine.
        relevant: one row per user, its held-out items, distinct.
        excluded: one row per user, items that do not compete. A relevant item is ranked even if
            it stands here.
        candidates: one row per user, the only items that compete with the relevant ones; an item
            that stands twice counts once. None: all items.

    Returns:
        One row per user, int64, parallel to ``relevant``: from 1 for the top.

    Raises:
        NumericError: If a score is NaN.
    """
    ranks = np.empty(len(relevant.values), np.int64)
    for user, row in enumerate(_rows(scores)):
        competes = np.full(len(row), candidates is None)
        if candidates is not None:
            competes[candidates.row(user)] = True
        competes[excluded.row(user)] = False
        competes[relevant.row(user)] = False
        targets = row[relevant.row(user)]
        by_score = np.argsort(-targets, kind="stable")
        above = np.count_nonzero(row[competes] >= targets[by_score, None], axis=1)
        ranks[relevant.offsets[user] + by_score] = above + np.arange(1, len(targets) + 1)
    return Ragged(relevant.offsets, ranks)


def top_k(scores: Scores, excluded: Ragged, k: int) -> IntArray:
    """Return the k items with the highest scores that are not excluded, best first.

    Of equal scores the lowest item index comes first, so the list is the same everywhere.

    Args:
        scores: float [b, n_items].
        excluded: one row per user, items to leave out.
        k: length of the lists.

    Returns:
        int64 [b, k], padded with -1 where fewer than k items remain.

    Raises:
        NumericError: If a score is NaN.
    """
    lists = np.full((len(scores), k), -1, np.int64)
    for user, row in enumerate(_rows(scores)):
        items = np.delete(np.arange(len(row)), excluded.row(user))
        if 0 < k < len(items):
            items = items[row[items] >= np.partition(row[items], -k)[-k]]
        best = items[np.argsort(-row[items], kind="stable")[:k]]
        lists[user, : len(best)] = best
    return lists


def legacy_candidates(
    bits: NDArray[np.uint32], taken: Ragged, n_items: int, count: int = LEGACY_CANDIDATES
) -> Ragged:
    """Draw items that a user never interacted with, to compete with its held-out item.

    The published protocol of sampled metrics: it overstates quality and can reorder methods;
    here only to reproduce published rows. The items are drawn with replacement, so a few may be
    equal; `ranks_of` counts them once.

    Args:
        bits: uint32 [b * count], random bits, user after user.
        taken: one row per user: all its items, of every part, sorted.
        n_items: size of the catalogue.
        count: items per user.

    Returns:
        One row per user, ``count`` items each.

    Raises:
        ConfigError: If fewer than ``count`` items are left to a user.
    """
    check_candidates(taken, n_items, count)
    users = np.repeat(np.arange(len(taken), dtype=np.int64), count)
    drawn = uniform_negatives(bits, users, taken, n_items)
    return Ragged(offsets_of(np.full(len(taken), count, np.int64)), drawn)


def check_candidates(taken: Ragged, n_items: int, count: int = LEGACY_CANDIDATES) -> None:
    """Check that `legacy_candidates` finds enough items for every user; the same arguments.

    Raises:
        ConfigError: If not.
    """
    most = int(taken.lengths.max(initial=0))
    if n_items - most < count:
        raise ConfigError(
            f"data.protocol: legacy needs {count} items that a user never interacted with, but a "
            f"user knows {most} of {n_items}; use data.protocol: clean"
        )


def check_nan(is_nan: NDArray[np.bool_]) -> None:
    """Raise `NumericError` if some users, bool [b], have a score that is NaN."""
    if is_nan.any():
        raise NumericError(
            f"the scores of {np.count_nonzero(is_nan)} of {len(is_nan)} users are NaN"
        )


def _rows(scores: Scores) -> FloatArray:
    """Return the scores as an array of the processor; raise `NumericError` if one is NaN."""
    rows = to_array(scores) if isinstance(scores, Tensor) else scores
    check_nan(np.asarray(np.isnan(rows).any(axis=1)))
    return rows
