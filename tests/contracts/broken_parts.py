"""Parts of strategies, each of which breaks a contract."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from fedrec.aggregation.reduce import weighted_sums
from fedrec.aggregation.update import Aggregate, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.plugins import Plugin
from fedrec.types import FloatArray, IntArray, Params, State
from strategies.aggregations.mean import Mean
from strategies.server_optimizers.sgd import SGD


class Narrowing(Mean):
    """Makes changes of float32."""

    def change(
        self, state: State, params: Params, aggregate: Aggregate, context: RoundContext
    ) -> tuple[State, Params]:
        state, change = super().change(state, params, aggregate, context)
        return state, {name: value.astype(np.float32) for name, value in change.items()}


class OfNodes(Mean):
    """Counts each client by how many were summed with it."""

    def reduce(self, batch: UpdateBatch) -> Aggregate:
        weight = np.full(len(batch.client_ids), float(len(batch.client_ids)))
        return weighted_sums(batch, weight, np.ones(len(weight)))


class Heavy(Mean):
    """Multiplies by the weight of the clients."""

    weighting: Literal["uniform", "examples"] = "examples"

    def change(
        self, state: State, params: Params, aggregate: Aggregate, context: RoundContext
    ) -> tuple[State, Params]:
        state, change = super().change(state, params, aggregate, context)
        return state, {name: value * aggregate.weight for name, value in change.items()}


class Backwards(Mean):
    """Goes where nobody goes."""

    def change(
        self, state: State, params: Params, aggregate: Aggregate, context: RoundContext
    ) -> tuple[State, Params]:
        state, change = super().change(state, params, aggregate, context)
        return state, {name: -value for name, value in change.items()}


class Overwriting(Mean):
    """Doubles what it is given, in place."""

    needs: ClassVar[Literal["sums", "each"]] = "sums"

    def change(
        self, state: State, params: Params, aggregate: Aggregate, context: RoundContext
    ) -> tuple[State, Params]:
        for value in aggregate.sums.values():
            value *= 2
        return super().change(state, params, aggregate, context)


class Widening(SGD):
    """Returns parameters of float64."""

    def step(
        self, state: State, params: Params, change: Params, touched: Mapping[str, IntArray]
    ) -> tuple[State, Params]:
        state, after = super().step(state, params, change, touched)
        return state, {name: value.astype(np.float64) for name, value in after.items()}


class Restless(SGD):
    """Moves without any change."""

    def direction(
        self, change: FloatArray, memory: Mapping[str, FloatArray]
    ) -> tuple[FloatArray, Mapping[str, FloatArray]]:
        move, remembered = super().direction(change, memory)
        return move + 0.1, remembered


class SlowWhereLazy(SGD):
    """Makes half a step with lazy moments."""

    def direction(
        self, change: FloatArray, memory: Mapping[str, FloatArray]
    ) -> tuple[FloatArray, Mapping[str, FloatArray]]:
        move, remembered = super().direction(change, memory)
        return (move / 2 if self.moments == "lazy" else move), remembered


class Eager(SGD):
    """Moves also rows that nobody touched."""

    def step(
        self, state: State, params: Params, change: Params, touched: Mapping[str, IntArray]
    ) -> tuple[State, Params]:
        everywhere = {name: value + value.sum() for name, value in change.items()}
        every_row = {name: np.arange(len(params[name])) for name in touched}
        return super().step(state, params, everywhere, every_row)


BROKEN_PARTS: list[tuple[Plugin, set[str]]] = [
    (Narrowing(), {"changes_have_the_form_of_parameters"}),
    (OfNodes(), {"clients_may_be_dealt_to_any_nodes"}),
    (Heavy(), {"weights_are_relative"}),
    (Backwards(), {"equal_changes_keep_their_direction"}),
    (Overwriting(), {"aggregating_changes_no_argument"}),
    (Widening(), {"steps_keep_the_form_of_parameters"}),
    (Restless(), {"without_change_nothing_moves"}),
    (SlowWhereLazy(), {"lazy_moments_are_dense_ones"}),
    (Eager(), {"lazy_rows_stay"}),
]
