"""Transforms, attacks and selections, each of which breaks a contract."""

from dataclasses import replace

import numpy as np

from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.plugins import Plugin
from fedrec.transforms.attacks.base import Attack
from fedrec.transforms.base import Transform
from fedrec.types import IntArray, Params, State
from strategies.selections.base import Selection


class Centring(Transform):
    """Takes the mean of all rows from each."""

    def on_update(self, batch: UpdateBatch, context: RoundContext) -> UpdateBatch:
        tables = {
            name: replace(block, values=block.values - block.values.mean())
            for name, block in batch.tables.items()
        }
        return replace(batch, tables=tables)


class InPlaceTransform(Transform):
    """Doubles what it is given."""

    def on_update(self, batch: UpdateBatch, context: RoundContext) -> UpdateBatch:
        for block in batch.tables.values():
            np.multiply(block.values, 2, out=block.values)
        return batch


class OneOfMany(Transform):
    """Asks on a node who takes part."""

    def on_update(self, batch: UpdateBatch, context: RoundContext) -> UpdateBatch:
        tables = {
            name: replace(block, values=block.values / np.float32(len(context.cohort)))
            for name, block in batch.tables.items()
        }
        return replace(batch, tables=tables)


class Nobody(Attack):
    """Has no attackers."""

    def attackers(self, context: RoundContext) -> IntArray:
        return np.zeros(0, np.int64)

    def rewrite(
        self, state: State, pool: UpdateBatch, params: Params, context: RoundContext
    ) -> tuple[State, UpdateBatch]:
        return state, pool


class InPlaceAttack(Attack):
    """Turns round what it is given."""

    def rewrite(
        self, state: State, pool: UpdateBatch, params: Params, context: RoundContext
    ) -> tuple[State, UpdateBatch]:
        for block in pool.tables.values():
            np.negative(block.values, out=block.values)
        return state, pool


class Unsorted(Selection):
    """Chooses clients in no order."""

    def choose(self, state: State, size: int, context: RoundContext) -> IntArray:
        return np.array([3, 1])


BROKEN_TRANSFORMS: list[tuple[Plugin, set[str]]] = [
    (Centring(), {"clients_are_transformed_as_if_alone"}),
    (InPlaceTransform(), {"the_same_round_is_transformed_alike"}),
    (
        OneOfMany(),
        {"clients_are_transformed_as_if_alone", "the_same_round_is_transformed_alike"},
    ),
    (Nobody(), {"attackers_are_some_of_the_clients"}),
    (InPlaceAttack(), {"the_same_round_is_attacked_alike"}),
    (Unsorted(), {"choices_are_clients"}),
]
