"""Plug-ins that break a contract each, and the contracts that must fail for them."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import PrivateAttr, field_validator

from fedrec.aggregation.update import Aggregate, Aggregates, Down, UpdateBatch
from fedrec.compute.batch import Tensors
from fedrec.compute.context import RoundContext
from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Batch, Model
from fedrec.models.mf import MatrixFactorization
from fedrec.models.module import ModelParams
from fedrec.personalization.base import FrozenItems, Personalization, Ranking, View
from fedrec.plugins import Plugin
from fedrec.training.client_rule import ClientRule, ClientUpdate, ParamView
from fedrec.types import IntArray, Params, ParamSpec, State
from strategies import FedAvg, Strategy
from strategies.aggregations.mean import Mean
from strategies.server_optimizers.sgd import SGD
from tests.contracts.broken_alone import BROKEN_ALONE
from tests.contracts.broken_parts import BROKEN_PARTS
from tests.contracts.broken_transforms import BROKEN_TRANSFORMS
from tests.contracts.own_encoders import BROKEN_ENCODERS

__all__ = ["BROKEN"]

COUNTER = count()
FIXED = torch.randn(128, 128, generator=torch.Generator().manual_seed(0))


class Linear(MatrixFactorization):
    """A flat model with a matrix product, whose bits depend on the number of rows."""

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        mapped = torch.nn.functional.linear(vectors, FIXED.to(vectors.dtype))
        return (params["user"] * mapped).sum(-1)

    def rank(self, params: ModelParams, batch: Batch, encoded: torch.Tensor) -> torch.Tensor:
        return params["user"] @ (encoded @ FIXED.to(encoded.dtype).T).T


class Averaging(MatrixFactorization):
    """Looks at the users of other pairs."""

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        return (params["user"] + 0.1 * params["user"].mean(0)).mul(vectors).sum(-1)


class FirstRow(MatrixFactorization):
    """Takes a dense parameter from the first pair, so from the first client."""

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        return {
            **super().params(catalogue),
            "scale": ParamSpec("shared", None, (128,), init_value=1.0),
        }

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        return (params["user"] * vectors * params["scale"][0]).sum(-1)

    def rank(self, params: ModelParams, batch: Batch, encoded: torch.Tensor) -> torch.Tensor:
        return Model.rank(self, params, batch, encoded)


class Unused(MatrixFactorization):
    """Declares a parameter that it never uses."""

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        return {**super().params(catalogue), "lost": ParamSpec("private", "client", (2,))}


class Column(MatrixFactorization):
    """Returns a column of scores."""

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        return super().score(params, batch, vectors).unsqueeze(1)


class Featureless(MatrixFactorization):
    """Returns features of the wrong rank."""

    def features(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        return vectors.sum(-1)


class Infinite(MatrixFactorization):
    """Ranks with scores that are not finite."""

    def rank(self, params: ModelParams, batch: Batch, encoded: torch.Tensor) -> torch.Tensor:
        return super().rank(params, batch, encoded) / 0.0


class OtherRanking(MatrixFactorization):
    """Ranks by other scores than it trains."""

    def rank(self, params: ModelParams, batch: Batch, encoded: torch.Tensor) -> torch.Tensor:
        return super().rank(params, batch, encoded) + encoded.sum(1)


class Impersonal(MatrixFactorization):
    """Ranks without the user's own values."""

    def rank(self, params: ModelParams, batch: Batch, encoded: torch.Tensor) -> torch.Tensor:
        return encoded.sum(1).repeat(len(batch.users), 1)


class Counting(MatrixFactorization):
    """Has a memory between calls."""

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        return super().score(params, batch, vectors) + 1e-3 * next(COUNTER)


class NotOneByOne(MatrixFactorization):
    """Computes something else when clients are computed one by one."""

    execution: ClassVar[Literal["flat", "vmap", "loop"]] = "vmap"  # type: ignore[assignment]

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        return super().score(params, batch, vectors) * (1 if self.execution == "vmap" else 2)

    def rank(self, params: ModelParams, batch: Batch, encoded: torch.Tensor) -> torch.Tensor:
        return Model.rank(self, params, batch, encoded)


class Growing(MatrixFactorization):
    """Has a setting that changes when it is read back."""

    @field_validator("init_std")
    @classmethod
    def _double(cls, value: float) -> float:
        return 2 * value


class Missing(Personalization):
    """Has a view that it does not rank."""

    views: ClassVar[tuple[View, ...]] = ("mixed", "local")

    def rank(
        self, frozen_items: FrozenItems, local: Tensors, ranking: Ranking
    ) -> dict[View, torch.Tensor]:
        return {"mixed": ranking.scores()}


class Misnamed(Personalization):
    """Gives values to a parameter that it does not declare."""

    def after_round(self, change: torch.Tensor, state: Tensors) -> Tensors:
        return {"notes": change}


class Idle(Personalization):
    """Declares private values that nothing trains."""

    def state(self, dim: int) -> Mapping[str, ParamSpec]:
        return {"idle": ParamSpec("private", "positive", (dim,))}


class Crowd(Personalization):
    """Adds the mean private value of all clients at hand."""

    def state(self, dim: int) -> Mapping[str, ParamSpec]:
        return {"mood": ParamSpec("private", "client", (), init_std=0.5)}

    def score(
        self, base: torch.Tensor, local: Tensors, index: torch.Tensor, prepared: Any
    ) -> torch.Tensor:
        return base + local["mood"].mean()

    def rank(
        self, frozen_items: FrozenItems, local: Tensors, ranking: Ranking
    ) -> dict[View, torch.Tensor]:
        return {"mixed": ranking.scores() + local["mood"].mean()}


class Telling(ClientRule):
    """Its clients send what they are to remember."""

    up: ClassVar[tuple[str, ...]] = ("secret",)
    memory: ClassVar[tuple[str, ...]] = ("secret",)

    def finalize(self, view: ParamView) -> ClientUpdate:
        change = view.value - view.start
        return ClientUpdate(change, {"secret": change}, {"secret": change})


class Silent(ClientRule):
    """Its clients do not send what it declares."""

    up: ClassVar[tuple[str, ...]] = ("promised",)


class Doubles(SGD):
    """Returns float64."""

    def step(
        self, state: State, params: Params, change: Params, touched: Mapping[str, IntArray]
    ) -> tuple[State, Params]:
        state, params = super().step(state, params, change, touched)
        return state, {name: value.astype(np.float64) for name, value in params.items()}


class Explodes(Mean):
    """Returns values that are not finite."""

    def change(
        self, state: State, params: Params, aggregate: Aggregate, context: RoundContext
    ) -> tuple[State, Params]:
        state, change = super().change(state, params, aggregate, context)
        return state, {**change, "item": change["item"] * np.nan}


class InPlace(SGD):
    """Steps the parameters where they lie."""

    def step(
        self, state: State, params: Params, change: Params, touched: Mapping[str, IntArray]
    ) -> tuple[State, Params]:
        state, after = super().step(state, params, change, touched)
        params["item"][:] = after["item"]
        return state, after


class FirstNode(FedAvg):
    """Listens to one node."""

    def merge(self, a: Aggregate, b: Aggregate) -> Aggregate:
        return b


class Halving(FedAvg):
    """Forms a mean of means."""

    def merge(self, a: Aggregate, b: Aggregate) -> Aggregate:
        both = super().merge(a, b)
        return replace(both, sums={name: value // 2 for name, value in both.sums.items()})


class Forgetting(Mean):
    """Keeps what a file does not keep."""

    def init(self, params: Params, context: RoundContext) -> State:
        return State({}, {"seen": (1, 2)})


class Remembering(FedAvg):
    """Keeps in itself, and not in its state, that it has stepped."""

    _stepped: bool = PrivateAttr(default=False)

    def init(self, params: Params, context: RoundContext) -> State:
        self._stepped = False
        return super().init(params, context)

    def apply(
        self, state: State, params: Params, aggregates: Aggregates, context: RoundContext
    ) -> tuple[State, Params]:
        rate, self._stepped = 0.5 if self._stepped else 1.0, True
        step = FedAvg(server_optimizer={"lr": rate})
        return step.apply(state, params, aggregates, context)


class Partly(FedAvg):
    """Sends some of the parameters."""

    def broadcast(
        self, state: State, params: Params, client_ids: IntArray, context: RoundContext
    ) -> Down:
        return Down({name: value for name, value in params.items() if name != "item"})


class Scattered(FedAvg):
    """Has a group for some of the clients."""

    def groups(self, state: State, client_ids: IntArray) -> IntArray:
        return client_ids[:-1]


class Partial(Strategy):
    """Loses a client of each node."""

    def reduce(self, batch: UpdateBatch) -> Aggregate:
        aggregate = super().reduce(batch)
        return replace(aggregate, clients=aggregate.clients - 1)

    def apply(
        self, state: State, params: Params, aggregates: Aggregates, context: RoundContext
    ) -> tuple[State, Params]:
        rate = np.float32(1 / aggregates[0].clients)
        return state, {name: value * rate for name, value in params.items()}


ALONE = "clients_are_computed_as_if_alone"
TRAINED = "every_value_is_trained"
OWN = "private_values_are_the_clients_own"
RANKING = "ranking_is_scoring"
SHAPE = "scores_have_their_shape"
STAY = "arguments_stay"
TOGETHER = "together_is_one_by_one"

BROKEN: list[tuple[Plugin, set[str]]] = [
    *BROKEN_ALONE,
    *BROKEN_ENCODERS,
    *BROKEN_PARTS,
    *BROKEN_TRANSFORMS,
    (Linear(), {ALONE}),
    (Averaging(), {ALONE, OWN, TOGETHER, RANKING}),
    (FirstRow(), {ALONE}),
    (Unused(), {TRAINED}),
    (Column(), {SHAPE}),
    (Featureless(), {SHAPE}),
    (Infinite(), {SHAPE}),
    (OtherRanking(), {RANKING}),
    (Impersonal(), {RANKING, OWN}),
    (Counting(), {STAY}),
    (NotOneByOne(), {TOGETHER}),
    (Growing(), {"settings_survive_a_file"}),
    (Missing(), {SHAPE}),
    (Misnamed(), {SHAPE, STAY}),
    (Idle(), {TRAINED}),
    (Silent(), {ALONE, "nodes_host_any_clients"}),
    (Crowd(), {ALONE, OWN}),
    (Telling(), {"private_values_are_not_sent"}),
    (Doubles(), {"parameters_keep_their_form"}),
    (Explodes(), {"parameters_keep_their_form"}),
    (InPlace(), {"applying_changes_no_argument"}),
    (FirstNode(), {"nodes_host_any_clients"}),
    (Halving(), {"nodes_host_any_clients"}),
    (Forgetting(), {"parameters_keep_their_form"}),
    (Remembering(), {"a_checkpoint_keeps_the_state"}),
    (Partly(), {"parameters_keep_their_form"}),
    (Scattered(), {"parameters_keep_their_form"}),
    (Partial(), {"nodes_host_any_clients"}),
]
"""With the contracts that fail for them; others may fail as a consequence."""
