"""Scores of the whole catalogue for blocks of users, with their own parameters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from fedrec.evaluation.block import BlockRanking
from fedrec.personalization.base import View
from fedrec.training.clients import frozen_items_of, tensors_of
from fedrec.training.history import latest
from fedrec.training.task import ClientTask
from fedrec.types import IntArray, Params, Ragged, Shard

__all__ = ["user_scorer"]


def user_scorer(
    task: ClientTask, shard: Shard, params: Params, local: Params
) -> Callable[[IntArray], dict[View, torch.Tensor]]:
    """A function that scores the whole catalogue for some users, with their own parameters.

    Args:
        task: model and personalization.
        shard: the clients.
        params: the global parameters.
        local: the local parameters of these clients, in their order.

    Returns:
        From user rows of the shard, int64 [b], to float [b, n_items] per view.
    """
    tensors = tensors_of(params, task.dtype)
    dtype = tensors["item"].dtype
    values = {name: torch.from_numpy(np.array(v)).to(dtype) for name, v in local.items()}
    unit_item_vectors = task.personalization.unit_item_vectors(tensors["item"])
    frozen_items = frozen_items_of(task, shard, tensors["item"], unit_item_vectors)
    state = task.personalization.state(tensors["item"].shape[1])
    history = _latest_items(task, shard)

    def of_users(users: IntArray) -> dict[View, torch.Tensor]:
        ranking = BlockRanking(task, tensors, values, frozen_items.clients, users, history)
        at = torch.from_numpy(users)
        mine = {n: values[n] if s.per == "row" else values[n][at] for n, s in state.items()}
        return task.personalization.rank(frozen_items, mine, ranking)

    return of_users


def _latest_items(task: ClientTask, shard: Shard) -> Ragged | None:
    """One row per user row: the items that a model with a window ranks from, oldest first."""
    if task.model.window is None:
        return None
    order = latest(shard, task.model.window - 1)
    return Ragged(order.offsets, shard.train.values[order.values])
