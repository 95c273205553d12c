"""FedDyn's dynamic regularisation (Acar et al., 2021)."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from fedrec.aggregation.reduce import mean_update
from fedrec.aggregation.update import Aggregate
from fedrec.compute.context import RoundContext
from fedrec.training.client_rule import ClientRule, ClientUpdate, ParamView
from fedrec.types import Params, State

_OF_CLIENT, _DIFFERENCE = "accumulated", "difference"


class DynamicRegularisation(ClientRule):
    r"""Clients accumulate how far they went, and are pulled by it.

    .. math:: \theta_u = \arg\min_\theta F_u(\theta) + \alpha \langle h_u, \theta \rangle
              + \tfrac{\alpha}{2} \lVert \theta - x \rVert^2, \quad
              h_u \leftarrow h_u + \theta_u - x, \quad
              x \leftarrow \tfrac{1}{|S|} \sum_{u \in S} \theta_u + \tfrac{1}{N} \sum_u h_u

    N counts all clients. Of an item table a client accumulates the rows of its train items, for
    good; for other items, which it meets as negatives, the term is that of `Proximal` with
    :math:`\mu = \alpha`. With a server learning rate :math:`\eta`, the step to the new x is
    multiplied by it.

    Args:
        alpha: :math:`\alpha`.

    Reference: acar2021feddyn, Algorithm 1.
    """

    reference: ClassVar[str] = "acar2021feddyn"
    up: ClassVar[tuple[str, ...]] = (_DIFFERENCE,)
    memory: ClassVar[tuple[str, ...]] = (_OF_CLIENT,)
    remembers: ClassVar[Literal["seen", "positives"]] = "positives"
    needs_average: ClassVar[tuple[str, ...]] = ("cohort",)
    needs_equal_weights: ClassVar[bool] = True
    moves_every_row: ClassVar[bool] = True

    alpha: float = Field(0.01, gt=0)

    def gradient_term(self, view: ParamView) -> Tensor:
        r"""Return :math:`\alpha (h_u + \theta - x)`."""
        return self.alpha * (view.memory[_OF_CLIENT] + view.value - view.start)

    def finalize(self, view: ParamView) -> ClientUpdate:
        """Return the change, which is also what is added to :math:`h_u` where it is remembered."""
        change = view.value - view.start
        added = change * view.remembered
        after = view.memory[_OF_CLIENT] + added
        return ClientUpdate(change, {_DIFFERENCE: added}, {_OF_CLIENT: after})

    def init(self, params: Params, context: RoundContext) -> State:
        r"""Return :math:`\sum_u h_u / N = 0`, float64, named and shaped as the parameters."""
        return State({name: np.zeros(value.shape) for name, value in params.items()})

    def applied(
        self, state: State, change: Params, aggregate: Aggregate, context: RoundContext
    ) -> tuple[State, Params]:
        """Add the mean of what all clients have accumulated."""
        beside = {f"{name}/{_DIFFERENCE}": value for name, value in change.items()}
        differences = mean_update(beside, aggregate, "sum")
        means = {
            name: mean + differences[f"{name}/{_DIFFERENCE}"] / context.n_clients
            for name, mean in state.arrays.items()
        }
        return State(means), {name: change[name] + means[name] for name in change}
