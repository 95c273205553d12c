"""Clients with quadratic losses, whose optima have closed forms, and rounds run one by one."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch

from fedrec.aggregation.returned import checked_apply, checked_broadcast, checked_init, merged
from fedrec.aggregation.update import Aggregate
from fedrec.compute.context import RoundContext
from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Batch, Model
from fedrec.models.module import ModelParams
from fedrec.personalization.base import NoPersonalization, Personalization
from fedrec.training.client_rule import client_rule_of
from fedrec.training.clients import train_clients
from fedrec.training.draws import Layout
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, IntArray, Params, ParamSpec, Shard, State
from strategies import Strategy
from tests.planted import initial_state, method_of, shard_of

__all__ = ["WIDTH", "Federation", "Quadratic", "unequal_clients"]

WIDTH = 2


class Quadratic(Model):
    r"""Each positive pair of client u and item i costs a quadratic; negatives cost nothing.

    .. math:: \tfrac{1}{2} k_u (\lVert x - b_u \rVert^2 + \lVert e_i - b_{ui} \rVert^2)

    The dense parameter x is ``level``, the row of the item table is :math:`e_i`. The curvatures k
    and the minima b are constants of each client.

    Args:
        spread: Standard deviation of the minima; 0: all are 1.
    """

    spread: float = 1.0

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        d, constant = (WIDTH,), partial(ParamSpec, "private", trainable=False)
        return {
            "item": ParamSpec("shared", "item", d),
            "level": ParamSpec("shared", None, d),
            "minimum": constant("client", d, init_value=1.0, init_std=self.spread),
            "item_minimum": constant("positive", d, init_value=1.0, init_std=self.spread),
            "log_curvature": constant("client", (), init_std=0.3),
        }

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        return vectors.sum(-1) + params["level"].sum(-1)

    def loss(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        assert batch.labels is not None
        curvature = params["log_curvature"].exp() * batch.labels.to(vectors.dtype)
        distance = (params["level"] - params["minimum"]).square().sum(-1)
        distance = distance + (vectors - params["item_minimum"]).square().sum(-1)
        return 0.5 * curvature * distance


def unequal_clients() -> Shard:
    """Four clients with 1 to 3 items of 6; one item is everybody's, two are nobody's."""
    return shard_of(6, [[0], [0, 1, 2], [0, 2], [0, 1, 3]])


@dataclass
class Federation:
    """Clients and a server between rounds.

    Args:
        strategy: What the server does.
        task: What the clients do.
        shard: The clients.
        params: The shared parameters.
        private: The private values of all clients.
        state: Of the strategy.
        rounds: How many are over.
    """

    strategy: Strategy
    task: ClientTask
    shard: Shard
    params: Params
    private: dict[str, FloatArray]
    state: State
    rounds: int = 0

    @classmethod
    def of(
        cls,
        strategy: Strategy,
        train: Mapping[str, Any],
        shard: Shard | None = None,
        model: Model | None = None,
        personalization: Personalization | None = None,
        seed: int = 0,
    ) -> Self:
        """Return a federation before its first round, which computes in float64."""
        shard = unequal_clients() if shard is None else shard
        task = method_of(
            train,
            personalization or NoPersonalization(),
            model or Quadratic(),
            seed=seed,
            dtype="float64",
            client_rule=client_rule_of(strategy),
        )
        params, local = initial_state(task, shard)
        private = {
            name: values if task.stored_specs()[name].dtype == "int32" else values.astype(float)
            for name, values in local.items()
        }
        federation = cls(strategy, task, shard, params, private, State())
        federation.state = checked_init(strategy, params, federation.context(0))
        return federation

    def context(self, number: int) -> RoundContext:
        """Return the context of a round."""
        return RoundContext(0, number, self.shard.n_clients, self.shard.n_items)

    def step(self, cohort: IntArray | None = None, nodes: int = 1) -> None:
        """Run a round of a cohort, int64 [c] rows of the shard, sorted; None: of all clients."""
        self.rounds += 1
        cohort = np.arange(self.shard.n_clients) if cohort is None else cohort
        context, layout = self.context(self.rounds), Layout.of(self.task, self.shard)
        rule = client_rule_of(self.strategy)
        down = checked_broadcast(self.strategy, rule, self.state, self.params, cohort, context)
        total: Aggregate | None = None
        for clients in np.array_split(cohort, nodes):
            at = layout.positions(clients)
            axes = {name: str(spec.axis) for name, spec in self.task.stored_specs().items()}
            before = {name: self.private[name][at[axis]] for name, axis in axes.items()}
            update, after = train_clients(
                self.task, self.shard.take(clients), down.shared, before, self.rounds
            )
            for name, values in after.items():
                self.private[name][at[axes[name]]] = values
            total = merged(self.strategy, total, self.strategy.reduce(update))
        assert total is not None
        self.state, self.params = checked_apply(
            self.strategy, self.state, self.params, {0: total}, context
        )

    def curvatures(self, full_batch: bool) -> FloatArray:
        """Return those of a step's loss by ``level``, float64 [c]; a batch is all pairs, or one."""
        of_pair = np.exp(self.private["log_curvature"])
        return of_pair * self.shard.examples() if full_batch else of_pair

    def level(self, weights: FloatArray) -> FloatArray:
        """Return the mean of the clients' minima of ``level``, with weights float64 [c]."""
        return np.asarray(weights @ self.private["minimum"] / weights.sum())

    def best_table(self) -> FloatArray:
        """Return the item table with the smallest sum of all clients' losses."""
        clients, items = self.shard.train.owners(), self.shard.train.values
        curvature = np.exp(self.private["log_curvature"])[clients, None]
        table, total = np.zeros((self.shard.n_items, WIDTH)), np.zeros((self.shard.n_items, 1))
        np.add.at(table, items, curvature * self.private["item_minimum"])
        np.add.at(total, items, curvature)
        return np.divide(table, total, out=table, where=total > 0)
