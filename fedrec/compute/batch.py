"""The pairs of users and items that a step works on. Flat and ragged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.types import IntArray, Ragged, offsets_of

__all__ = ["PairBatch", "Tensors"]

Tensors: TypeAlias = Mapping[str, torch.Tensor]
"""Named tensors, one entry per parameter."""


@dataclass(frozen=True, slots=True)
class PairBatch:
    """The unique (user, item) pairs of a local epoch or of one step of it.

    Pairs stand user after user; users stand client after client. ``q`` pairs, ``u`` users, ``t``
    slots. A *slot* is a row of the working copy: one per client and touched item.

    Args:
        users: int64 [q], the user row of each pair.
        items: int64 [q].
        local_rows: int64 [q].
        labels: float [q], 1 for a positive, 0 for a sampled negative.
        offsets: int64 [u + 1], user ``u`` has pairs ``offsets[u]:offsets[u + 1]``.
        index: int64 [q], where each pair stands among the pairs of the whole epoch.
        clients: int64 [q], the client row of each pair.
        history: for a model with a window, one row per user row: the pairs of its latest train
            items, oldest first; empty for a user without pairs.
        context: int64 [q], for such a model: how many of them stand before the pair; for a pair
            that is none of them, as many as the model looks at.
    """

    users: torch.Tensor
    items: torch.Tensor
    local_rows: torch.Tensor
    labels: torch.Tensor
    offsets: IntArray
    index: torch.Tensor
    clients: torch.Tensor
    history: Ragged | None = None
    context: torch.Tensor | None = None

    def at(self, rows: torch.Tensor) -> PairBatch:
        """Pairs in any order, also several times: only what is per pair, not users nor histories.

        Args:
            rows: int64 [r], positions of pairs.
        """
        return replace(
            self,
            users=self.users[rows],
            items=self.items[rows],
            local_rows=self.local_rows[rows],
            labels=self.labels[rows],
            index=self.index[rows],
            clients=self.clients[rows],
            context=None if self.context is None else self.context[rows],
        )

    def select(self, chosen: IntArray, n_users: int) -> PairBatch:
        """Some of the pairs, in the same order.

        Args:
            chosen: int64 [k], sorted positions of pairs; with the whole history of each user.
            n_users: number of user rows.
        """
        at = torch.from_numpy(chosen)
        users = self.users[at]
        counts = np.bincount(users.numpy(), minlength=n_users)
        return PairBatch(
            users=users,
            items=self.items[at],
            local_rows=self.local_rows[at],
            labels=self.labels[at],
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            index=self.index[at],
            clients=self.clients[at],
            history=_kept_history(self.history, chosen, counts > 0),
            context=None if self.context is None else self.context[at],
        )


def _kept_history(
    history: Ragged | None, chosen: IntArray, present: NDArray[np.bool_]
) -> Ragged | None:
    """The histories of the users that are present, as positions in ``chosen``."""
    if history is None:
        return None
    kept = history.values[present[history.owners()]]
    lengths = np.where(present, history.lengths, 0)
    return Ragged(offsets_of(lengths), np.searchsorted(chosen, kept))
