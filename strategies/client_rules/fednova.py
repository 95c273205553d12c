"""FedNova's normalised updates (Wang et al., 2020)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from fedrec.aggregation.fixed_point import from_fixed
from fedrec.aggregation.update import Aggregate
from fedrec.compute.context import RoundContext
from fedrec.training.client_rule import ClientRule, ClientUpdate, ParamView
from fedrec.types import Params, State

_STEPS = "steps/"


class NormalisedUpdates(ClientRule):
    r"""Clients send their change per step, so that those with many steps have no more say.

    .. math:: x \leftarrow x + \Big( \sum_u p_u a_u \Big) \sum_u p_u \frac{\Delta_u}{a_u}

    :math:`a_u` is the client's number of steps, the weight of plain SGD in the paper;
    :math:`p_u` is its weight in the mean over the cohort. A client's number of steps is the same
    for every row of a table, whichever rows a step touches.

    Reference: wang2020fednova, section 5.
    """

    reference: ClassVar[str] = "wang2020fednova"
    needs_sgd: ClassVar[bool] = True
    needs_average: ClassVar[tuple[str, ...]] = ("cohort",)

    def without_effect(self, run: Any) -> list[str]:
        """Say that all clients make the same number of steps."""
        if not run.experiment.train.one_step(run):
            return []
        return [
            "name: fednova has no effect: all clients make the same number of steps; lower "
            "train.batch_size, or take the rule none"
        ]

    def finalize(self, view: ParamView) -> ClientUpdate:
        """Return the change per step."""
        return ClientUpdate((view.value - view.start) / view.steps)

    def extras(
        self, steps: Mapping[str, Tensor], rates: Mapping[str, float]
    ) -> Mapping[str, Tensor]:
        """Return the steps of each client, for each shared parameter."""
        return {_STEPS + name: count for name, count in steps.items()}

    def applied(
        self, state: State, change: Params, aggregate: Aggregate, context: RoundContext
    ) -> tuple[State, Params]:
        """Multiply the mean change per step by the mean number of steps."""
        # Without weight there is nothing to divide.
        weight = float(from_fixed(np.array(aggregate.weight))) or 1.0
        steps = {n: from_fixed(np.array(aggregate.extras[_STEPS + n])) / weight for n in change}
        return state, {name: value * steps[name] for name, value in change.items()}
