"""Plug-ins that work on sums, and one that takes its process down."""

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedrec.aggregation.reduce import mean_update, stepped
from fedrec.aggregation.update import Aggregate, Aggregates, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.transforms.base import Transform
from fedrec.types import IntArray, Params, State
from strategies.base import Strategy


class OddAndEven(Strategy):
    """Clients with odd and with even numbers count the same, however many they are."""

    def groups(self, state: State, client_ids: IntArray) -> IntArray:
        return np.asarray(client_ids % 2)

    def apply(
        self, state: State, params: Params, aggregates: Aggregates, context: RoundContext
    ) -> tuple[State, Params]:
        for _, aggregate in sorted(aggregates.items()):
            change = mean_update(params, aggregate, "per_row")
            params = stepped(params, change, 1 / len(aggregates))
        return state, params


class NoiseOnSum(Transform):
    """Adds noise to the sums of the round."""

    def on_aggregate(self, aggregate: Aggregate, context: RoundContext) -> Aggregate:
        rng = context.generator("noise")
        sums: Mapping[str, IntArray] = {
            name: values + rng.integers(-(2**24), 2**24, values.shape)
            for name, values in sorted(aggregate.sums.items())
        }
        return replace(aggregate, sums=sums)


class DiesOnce(Transform):
    """Changes nothing, and kills the process of the first node that has trained, once.

    Args:
        mark: a file that says that it has.
        spared: the process that is not to be killed.
    """

    mark: str
    spared: int

    def on_update(self, batch: UpdateBatch, context: RoundContext) -> UpdateBatch:
        if os.getpid() != self.spared and not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return batch
