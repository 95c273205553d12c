"""What a client model declares, and what the yardsticks are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch

from fedrec.plugins import Plugin
from fedrec.types import FloatArray, IntArray, ParamSpec, Split

__all__ = ["Model", "Pairs", "Scorer", "Tensors", "Yardstick"]

Tensors: TypeAlias = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Pairs:
    """User and item pairs to be scored.

    Args:
        users: int64 [q], the user row of each pair within this computation.
        items: int64 [q], the item of each pair.
    """

    users: torch.Tensor
    items: torch.Tensor


class Model(Plugin):
    """A client model: scores user and item pairs from parameters that it declares.

    It holds no parameters itself; the framework hands them in, gathered for the pairs at hand.

    ``batching`` says how clients may be computed together:

    - ``csr``: many clients flat in one computation. Every parameter arrives gathered per pair,
      ``[q, *shape]``, also dense global ones, and the score of a pair may use only that pair's
      row, with operations that give the same bits wherever the row stands (see
      `fedrec.training.stable`): no ``mm``, no ``linear``.
    - ``loop``: one client at a time. Dense parameters arrive as they are, ``[*shape]``; item rows
      and user parameters are gathered per pair. Any operation is fine.
    """

    batching: ClassVar[Literal["csr", "loop"]] = "csr"

    @abstractmethod
    def params(self) -> Mapping[str, ParamSpec]:
        """The parameters by name, with their roles.

        Exactly one has the role ``item_rows`` and is named ``item``: the item table.
        """

    @abstractmethod
    def score(self, params: Tensors, pairs: Pairs) -> torch.Tensor:
        """The score of each pair, a logit.

        Args:
            params: per name, gathered for the pairs as the class says.
            pairs: whom and what the rows stand for.

        Returns:
            float [q].
        """

    def features(self, params: Tensors, pairs: Pairs) -> torch.Tensor:
        """The input of the model's last linear layer, float [q, h].

        PLGC's tangent-kernel weight is computed from it. The default is the item's row, which is
        exact for matrix factorisation.
        """
        return params["item"]

    def score_catalogue(self, users: Tensors, table: Tensors) -> torch.Tensor:
        """The scores of some users for the whole catalogue; default: all pairs by `score`.

        Args:
            users: per parameter without a row per item, float [b, *shape], one row per user;
                in the ``loop`` form only those of users, the others as they are.
            table: per item table, float [n_items, *shape].

        Returns:
            float [b, n_items].
        """
        n_items = len(table["item"])
        specs = self.params()
        per_user = [n for n in users if self.batching == "csr" or specs[n].per == "user"]
        n_users = len(users[per_user[0]]) if per_user else 1
        user = torch.arange(n_users).repeat_interleave(n_items)
        item = torch.arange(n_items).repeat(n_users)
        gathered = {name: values[item] for name, values in table.items()}
        gathered |= {name: v[user] if name in per_user else v for name, v in users.items()}
        return self.score(gathered, Pairs(user, item)).reshape(n_users, n_items)


Scorer: TypeAlias = Callable[[IntArray], FloatArray]
"""From user indices, int64 [b], to their scores for the whole catalogue, float32 [b, n_items]."""


class Yardstick(Plugin):
    """A centralised method to compare with; it sees everybody's train items."""

    @abstractmethod
    def fit(self, split: Split, seed: int) -> Scorer:
        """Learn from the train items of all users.

        Args:
            split: The data; only ``split.train`` may be looked at.
            seed: The run's seed.
        """
