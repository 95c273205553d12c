"""The pairs of users and items that a step works on. Flat and ragged."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch

from fedrec.types import IntArray, Ragged

Tensors: TypeAlias = Mapping[str, torch.Tensor]
"""Named tensors, one entry per parameter."""


@dataclass(frozen=True, slots=True)
class PairBatch:
    """The unique (user, item) pairs of a local epoch, or of one step of it.

    Pairs stand user after user, by item; users stand client after client.

    Args:
        users: int64 [q], the user row of each pair.
        items: int64 [q].
        clients: int64 [q], the client row of each pair.
        labels: float32 [q], 1 for a positive, 0 for any other pair.
        offsets: int64 [u + 1], user ``u`` has pairs ``offsets[u]:offsets[u + 1]``.
        index: int64 [q], where each pair stands among the pairs of the whole epoch.
        history: For a model with a window, one row per user row: the pairs of its latest train
            items, oldest first; empty for a user without pairs.
        context: int64 [q], for such a model: how many of them stand before the pair; for a pair
            that is none of them, as many as the model looks at.
    """

    users: torch.Tensor
    items: torch.Tensor
    clients: torch.Tensor
    labels: torch.Tensor
    offsets: IntArray
    index: torch.Tensor
    history: Ragged | None = None
    context: torch.Tensor | None = None
