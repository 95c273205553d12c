"""Where held-out items stand in the ranking of the catalogue, and which items lead it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.data.negatives import uniform_negatives
from fedrec.errors import ConfigError, NumericError
from fedrec.types import FloatArray, IntArray, Ragged, Shard, offsets_of

__all__ = [
    "PARTS",
    "Part",
    "Placed",
    "Scores",
    "check_candidates",
    "check_nan",
    "exposure",
    "legacy_candidates",
    "mask_of",
    "place",
    "place_by_definition",
    "ranks_of",
    "top_k",
]

Part: TypeAlias = Literal["valid", "test"]
PARTS: tuple[Part, ...] = ("valid", "test")

Scores: TypeAlias = "torch.Tensor | FloatArray"
"""The scores of some users for the whole catalogue, float [b, n_items]."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the held-out items of some users stand, and what stands first.

    Args:
        ranks: per part, int64 [held out]: user after user, the sorted ranks of its items.
        top: int64 [b, k], the top list of each user that has test items, padded with -1; only
            -1 for the others.
    """

    ranks: Mapping[Part, IntArray]
    top: IntArray


def place(
    scores: Scores,
    shard: Shard,
    rows: IntArray,
    k: int = 0,
    candidates: Mapping[Part, Ragged] | None = None,
) -> Placed:
    """`place_by_definition`, in machine code where numba is installed: the same integers.

    Args:
        scores: float [b, n_items]; infinite values are fine.
        shard: the users and their items.
        rows: int64 [b], the user row that each row of scores belongs to.
        k: length of the top lists; 0 for none.
        candidates: per part one row per row of scores: the only items that compete with the
            held-out ones; None: all.

    Raises:
        NumericError: If a score is NaN.
    """
    memory = None if candidates else _flat(scores)
    if memory is None or find_spec("numba") is None:
        return place_by_definition(scores, shard, rows, k, candidates)
    from fedrec.evaluation.ranking_numba import place_users

    flat, stride = memory
    ranks: dict[Part, IntArray] = {
        "valid": np.empty(int(shard.valid.lengths[rows].sum()), np.int64),
        "test": np.empty(int(shard.test.lengths[rows].sum()), np.int64),
    }
    top = np.full((len(rows), k), -1, np.int64)
    train, valid, test = (
        (np.ascontiguousarray(part.offsets), np.ascontiguousarray(part.values))
        for part in (shard.train, shard.valid, shard.test)
    )
    diverged = place_users(
        flat, stride, shard.n_items, rows, train, valid, test, ranks["valid"], ranks["test"], top
    )
    check_nan(int(diverged), len(rows))
    return Placed(ranks, top)


def place_by_definition(
    scores: Scores,
    shard: Shard,
    rows: IntArray,
    k: int = 0,
    candidates: Mapping[Part, Ragged] | None = None,
) -> Placed:
    """Rank the held-out items of some users, and list what stands first; see `place`."""
    train, valid, test = (part.take(rows) for part in (shard.train, shard.valid, shard.test))
    held_out: dict[Part, Ragged] = {"valid": valid, "test": test}
    ranks = {
        part: ranks_of(
            scores, items, mask_of(part, train, valid), (candidates or {}).get(part)
        ).values
        for part, items in held_out.items()
    }
    top = np.full((len(rows), k), -1, np.int64)
    tested = test.lengths > 0
    if k > 0 and tested.any():
        top[tested] = top_k(scores, mask_of("test", train, valid), k)[tested]
    return Placed(ranks, top)


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
    owners = np.concatenate([train.owners(), valid.owners()])
    values = np.concatenate([train.values, valid.values])
    order = np.lexsort((values, owners))
    return Ragged(offsets_of(train.lengths + valid.lengths), values[order])


def ranks_of(
    scores: Scores, relevant: Ragged, excluded: Ragged, candidates: Ragged | None = None
) -> Ragged:
    r"""Compute the ranks of the held-out items among the items that are not excluded.

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
    targets = masked[_index(masked, owners), _index(masked, relevant.values)].cpu().numpy()
    order = np.lexsort((-targets, owners))
    bar = masked.new_tensor(targets[order])
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
    masked = _copy(scores)
    left_out = torch.zeros_like(masked, dtype=torch.bool)
    left_out[_index(masked, excluded.owners()), _index(masked, excluded.values)] = True
    masked[left_out] = float("-inf")
    n_users, n_items = masked.shape
    depth = min(k, n_items)
    result = np.full((n_users, k), -1, np.int64)
    if depth == 0 or n_users == 0:
        return result
    # torch.topk picks any of equal scores; its smallest value is the bar, and the rest is exact.
    bar = torch.topk(masked, depth, dim=1).values[:, -1:]
    above, level = masked > bar, (masked == bar) & ~left_out
    places = depth - above.sum(dim=1, keepdim=True)
    chosen = above | (level & (level.cumsum(dim=1) <= places))
    users, items = (index.cpu().numpy() for index in chosen.nonzero(as_tuple=True))
    values = masked[chosen].cpu().numpy()
    order = np.lexsort((items, -values, users))
    lists = Ragged(offsets_of(np.bincount(users, minlength=n_users)), items[order])
    result[users, np.arange(len(users)) - lists.offsets[:-1][users]] = lists.values
    return result


def exposure(top: IntArray, n_items: int) -> IntArray:
    """Count in how many of the lists each item stands.

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
    """Draw items that a user never interacted with, to compete with its held-out item.

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
    """Return a copy to write into; raise `NumericError` if a score is NaN."""
    if isinstance(scores, torch.Tensor):
        copied = scores.detach().clone()
    else:
        copied = torch.from_numpy(np.array(scores, order="C"))
    nan = torch.isnan(copied)
    check_nan(int(nan.any(dim=1).sum()), len(copied))
    return copied


def check_nan(diverged: int, of: int) -> None:
    """Raise `NumericError` if some of the users have a score that is NaN."""
    if diverged > 0:
        raise NumericError(f"the scores of {diverged} of {of} users are NaN")


def _flat(scores: Scores) -> tuple[FloatArray, int] | None:
    """Return the memory of the scores, float [...], and the stride of rows; None if unsuitable."""
    array = scores
    if isinstance(array, torch.Tensor):
        if array.device.type != "cpu" or array.dtype not in (torch.float32, torch.float64):
            return None
        array = array.detach().numpy()
    if array.dtype not in (np.float32, np.float64):
        return None
    size = array.itemsize
    if array.strides[1] != size or array.strides[0] < 0 or array.strides[0] % size:
        array = np.ascontiguousarray(array)
    n_users, n_items = array.shape
    stride = array.strides[0] // size
    # Rows may lie apart, or be one and the same; numba wants to know that items are neighbours.
    length = (n_users - 1) * stride + n_items if n_users else 0
    return np.lib.stride_tricks.as_strided(array, (length,), (size,), writeable=False), stride


def _index(like: torch.Tensor, values: IntArray) -> torch.Tensor:
    return torch.tensor(values, device=like.device)


def _put(scores: torch.Tensor, at: Ragged, value: float) -> None:
    scores[_index(scores, at.owners()), _index(scores, at.values)] = value


def _only(scores: torch.Tensor, chosen: Ragged) -> torch.Tensor:
    rows, items = _index(scores, chosen.owners()), _index(scores, chosen.values)
    masked = torch.full_like(scores, float("nan"))
    masked[rows, items] = scores[rows, items]
    return masked
