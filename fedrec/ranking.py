"""Where held-out items stand in the ranking of the catalogue, and which items lead it."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.data.negatives import uniform_negatives
from fedrec.errors import ConfigError, NumericError
from fedrec.types import FloatArray, IntArray, Ragged, offsets_of

__all__ = [
    "Scores",
    "check_candidates",
    "exposure",
    "legacy_candidates",
    "ranks_of",
    "top_k",
]

Scores: TypeAlias = torch.Tensor | FloatArray
"""The scores of some users for the whole catalogue, float [b, n_items]."""


def ranks_of(
    scores: Scores, relevant: Ragged, excluded: Ragged, candidates: Ragged | None = None
) -> Ragged:
    r"""The ranks of the held-out items among the items that are not excluded.

    .. math:: r_{ui} = |\{j \in C_u : s_{uj} \ge s_{ui}\}| + p_{ui}

    with :math:`C_u` the items neither excluded nor relevant, and :math:`p_{ui}` the place, from
    1, of i among the user's relevant items by descending score. So ties of score are broken
    against the held-out item: constant scores give the worst ranks, not chance's.

    Args:
        scores: float [b, n_items]; infinite values are fine.
        relevant: one row per user, its held-out items, distinct.
        excluded: one row per user, items that do not compete. A relevant item is ranked even if
            it stands here.
        candidates: one row per user, the only items that compete with the relevant ones; an item
            that stands twice counts once. None: all items.

    Returns:
        One row per user, int64, sorted: from 1 for the top.

    Raises:
        NumericError: If a score is NaN.
    """
    masked = _copy(scores)
    owners = relevant.owners()
    found = masked[_index(masked, owners), _index(masked, relevant.values)].cpu().numpy()
    order = np.lexsort((-found, owners))
    bar = masked.new_tensor(found[order])
    if candidates is not None:
        masked = _only(masked, candidates)
    # A comparison with NaN is false: such items do not compete, whatever the scores.
    _put(masked, excluded, float("nan"))
    _put(masked, relevant, float("nan"))
    place = np.arange(len(owners), dtype=np.int64) - relevant.offsets[:-1][owners]
    above = np.empty(len(owners), np.int64)
    for turn in range(int(relevant.lengths.max(initial=0))):
        rows = np.flatnonzero(relevant.lengths > turn)
        at = relevant.offsets[:-1][rows] + turn
        block = masked if len(rows) == len(masked) else masked[_index(masked, rows)]
        beats = block >= bar[_index(bar, at), None]
        above[at] = beats.sum(dim=1).cpu().numpy()
    return Ragged(relevant.offsets, above + place + 1)


def top_k(scores: Scores, excluded: Ragged, k: int) -> IntArray:
    """The k items with the highest scores that are not excluded, best first.

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
    masked = _copy(scores)
    # From here on only an excluded item is at minus infinity.
    masked.clamp_(min=torch.finfo(masked.dtype).min)
    _put(masked, excluded, float("-inf"))
    n_users, n_items = masked.shape
    depth = min(k, n_items)
    result = np.full((n_users, k), -1, np.int64)
    if depth == 0 or n_users == 0:
        return result
    # torch.topk picks any of equal scores; its smallest value is the bar, and the rest is exact.
    bar = torch.topk(masked, depth, dim=1).values[:, -1:]
    above, level = masked > bar, masked == bar
    room = depth - above.sum(dim=1, keepdim=True)
    chosen = above | (level & (level.cumsum(dim=1) <= room))
    items = chosen.nonzero()[:, 1].reshape(n_users, depth)
    values = masked.gather(1, items)
    best_first = torch.sort(values, dim=1, descending=True, stable=True)
    listed = items.gather(1, best_first.indices)
    listed[torch.isneginf(best_first.values)] = -1
    result[:, :depth] = listed.cpu().numpy()
    return result


def exposure(top: IntArray, n_items: int) -> IntArray:
    """In how many of the lists each item stands.

    Args:
        top: int64 [b, k] of `top_k`.
        n_items: size of the catalogue.

    Returns:
        int64 [n_items].
    """
    return np.bincount(top[top >= 0], minlength=n_items).astype(np.int64)


def legacy_candidates(
    bits: NDArray[np.uint32], known: Ragged, n_items: int, count: int = 99
) -> Ragged:
    """Items that a user never interacted with, to compete with its held-out item.

    The published protocol of sampled metrics: it overstates quality and can reorder methods;
    here only to reproduce published rows. The items are drawn with replacement, so a few may be
    equal; `ranks_of` counts them once.

    Args:
        bits: uint32 [b * count], random bits, user after user.
        known: one row per user: all its items, of every part, sorted.
        n_items: size of the catalogue.
        count: items per user.

    Returns:
        One row per user, ``count`` items each.

    Raises:
        ConfigError: If fewer than ``count`` items are left to a user.
    """
    check_candidates(known, n_items, count)
    n_users = len(known)
    users = np.repeat(np.arange(n_users, dtype=np.int64), count)
    drawn = uniform_negatives(bits, users, known, n_items)
    return Ragged(offsets_of(np.full(n_users, count, np.int64)), drawn)


def check_candidates(known: Ragged, n_items: int, count: int = 99) -> None:
    """Check that `legacy_candidates` finds enough items for every user; the same arguments.

    Raises:
        ConfigError: If not.
    """
    most = int(known.lengths.max(initial=0))
    if n_items - most < count:
        raise ConfigError(
            f"data.protocol: legacy needs {count} items that a user never interacted with, but a "
            f"user knows {most} of {n_items}; use data.protocol: clean"
        )


def _copy(scores: Scores) -> torch.Tensor:
    """A copy to write into, without NaN."""
    copied = scores.detach().clone() if isinstance(scores, torch.Tensor) else torch.tensor(scores)
    if torch.isnan(copied).any():
        users = int(torch.isnan(copied).any(dim=1).sum())
        raise NumericError(
            f"the scores of {users} of {len(copied)} users are NaN: training diverged; lower "
            "train.item_lr, train.local_optimizer.lr or strategy.server_lr"
        )
    return copied


def _index(like: torch.Tensor, values: IntArray) -> torch.Tensor:
    return torch.tensor(values, device=like.device)


def _put(scores: torch.Tensor, at: Ragged, value: float) -> None:
    scores[_index(scores, at.owners()), _index(scores, at.values)] = value


def _only(scores: torch.Tensor, kept: Ragged) -> torch.Tensor:
    rows, items = _index(scores, kept.owners()), _index(scores, kept.values)
    masked = torch.full_like(scores, float("nan"))
    masked[rows, items] = scores[rows, items]
    return masked
