"""Scores of users for the catalogue, with their own parameters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from fedrec.evaluation.block import BlockRanking
from fedrec.personalization.base import View
from fedrec.training.clients import frozen_items_of, tensors_of
from fedrec.training.history import latest
from fedrec.training.task import ClientTask
from fedrec.types import IntArray, Params, Ragged, Shard

__all__ = ["GroupScorer", "UserScorer"]


class UserScorer:
    """The scores of the users of a shard for the catalogue.

    Args:
        task: model and personalization.
        shard: the clients.
        params: the global parameters.
        local: the local parameters of these clients, in their order.
    """

    def __init__(self, task: ClientTask, shard: Shard, params: Params, local: Params) -> None:
        self._task = task
        self._params = tensors_of(params, task.dtype)
        table = self._params["item"]
        self._local = {n: torch.from_numpy(np.array(v)).to(table.dtype) for n, v in local.items()}
        unit_item_vectors = task.personalization.unit_item_vectors(table)
        self._frozen_items = frozen_items_of(task, shard, table, unit_item_vectors)
        self._state = task.personalization.state(table.shape[1])
        self._history = _latest_items(task, shard)

    @property
    def by_columns(self) -> bool:
        """Return whether some items at a time are faster, for all users."""
        model = self._task.model
        by_positive = any(spec.axis == "positive" for spec in model.params().values())
        flat = model.execution == "flat" and not by_positive
        return flat and self._task.personalization.by_columns

    def group(self, users: IntArray) -> GroupScorer:
        """Prepare the scores of some users.

        Args:
            users: int64 [g], user rows of the shard.
        """
        return GroupScorer(self, users)

    def __call__(self, users: IntArray) -> dict[View, torch.Tensor]:
        """Return the scores of some users for the whole catalogue.

        Args:
            users: int64 [b], user rows of the shard.

        Returns:
            float [b, n_items] per view.
        """
        return self.group(users)(slice(0, len(users)))


class GroupScorer:
    """The scores of some users, who share what items cost; see `UserScorer.group`."""

    def __init__(self, scorer: UserScorer, users: IntArray) -> None:
        self._scorer, self._users = scorer, users
        self._blocks: dict[int, tuple[BlockRanking, dict[str, torch.Tensor]]] = {}
        self._prepared = scorer._task.personalization.prepare_ranking(scorer._frozen_items, users)

    def __call__(self, place: slice, items: torch.Tensor | None = None) -> dict[View, torch.Tensor]:
        """Return the scores of some of the users for some items.

        Args:
            place: where they stand in the group; each beginning always with the same end.
            items: int64 [c], if the scores are `UserScorer.by_columns`; None: all. The scores do
                not depend on which items are scored together if there are equally many.

        Returns:
            float [b, c] per view.
        """
        scorer = self._scorer
        if place.start not in self._blocks:
            self._blocks[place.start] = self._block(place)
        ranking, local = self._blocks[place.start]
        ranking = replace(ranking, columns=items)
        return scorer._task.personalization.rank(scorer._frozen_items, local, ranking)

    def _block(self, place: slice) -> tuple[BlockRanking, dict[str, torch.Tensor]]:
        """Return the model for some of the users, and their values of the personalization."""
        scorer, users = self._scorer, self._users[place]
        ranking = BlockRanking(
            scorer._task,
            scorer._params,
            scorer._local,
            scorer._frozen_items,
            users,
            place,
            self._prepared,
            scorer._history,
        )
        clients = torch.from_numpy(scorer._frozen_items.clients[users])
        rows, values = {"user": torch.from_numpy(users), "client": clients}, scorer._local
        local = {
            n: values[n][rows[s.axis]] if s.axis in rows else values[n]
            for n, s in scorer._state.items()
        }
        return replace(ranking, gathered=ranking.gather()), local


def _latest_items(task: ClientTask, shard: Shard) -> Ragged | None:
    """Return the items that a model with a window ranks from, oldest first, one row per user."""
    if task.model.window is None:
        return None
    latest_rows = latest(shard, task.model.window - 1)
    return Ragged(latest_rows.offsets, shard.train.values[latest_rows.values])
