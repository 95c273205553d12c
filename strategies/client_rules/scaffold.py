"""SCAFFOLD's control variates (Karimireddy et al., 2020)."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedrec.aggregation.fixed_point import from_fixed
from fedrec.aggregation.reduce import mean_update
from fedrec.aggregation.update import Aggregate
from fedrec.compute.context import RoundContext
from fedrec.training.client_rule import ClientRule, ClientUpdate, ParamView
from fedrec.types import Params, State

_CONTROL, _OF_CLIENT, _DISTANCE = "control", "client_control", "distance/"


class ControlVariates(ClientRule):
    r"""Clients correct their gradients by control variates.

    .. math:: y \leftarrow y - \eta_l (g_u(y) - c_u + c), \quad
              c_u^+ = c_u - c + \tfrac{1}{K \eta_l}(x - y), \quad
              c \leftarrow c + \tfrac{1}{N} \sum_u (c_u^+ - c_u)

    K is the client's own number of steps. A row that the client does not touch has
    :math:`g = 0`, so it moves by :math:`-K \eta_l (c - c_u)`, and its new :math:`c_u` is 0: what is
    remembered stays as sparse as the client. Of that movement, :math:`-K \eta_l c` is the same for
    every row: the client uploads :math:`K \eta_l` instead, and the server adds it. So the rule is
    exact also for rows that a client does not touch. Every row moves for every client, which is
    why the aggregation divides by the cohort.

    Reference: karimireddy2020scaffold, Algorithm 1, option II.
    """

    reference: ClassVar[str] = "karimireddy2020scaffold"
    down: ClassVar[tuple[str, ...]] = (_CONTROL,)
    up: ClassVar[tuple[str, ...]] = (_CONTROL,)
    memory: ClassVar[tuple[str, ...]] = (_OF_CLIENT,)
    needs_sgd: ClassVar[bool] = True
    needs_average: ClassVar[tuple[str, ...]] = ("cohort",)
    needs_equal_weights: ClassVar[bool] = True
    moves_every_row: ClassVar[bool] = True
    needs_one_version: ClassVar[bool] = True

    def gradient_term(self, view: ParamView) -> Tensor:
        """Return ``c - c_u``."""
        return view.down[_CONTROL] - view.memory[_OF_CLIENT]

    def finalize(self, view: ParamView) -> ClientUpdate:
        """Return the new c_u from the distance gone."""
        change = view.value - view.start
        server, old = view.down[_CONTROL], view.memory[_OF_CLIENT]
        distance = view.steps * view.rate
        new = old - server - change / distance
        new = torch.where(view.touched, new, torch.zeros_like(new))
        return ClientUpdate(change + distance * server, {_CONTROL: new - old}, {_OF_CLIENT: new})

    def extras(
        self, steps: Mapping[str, Tensor], rates: Mapping[str, float]
    ) -> Mapping[str, Tensor]:
        """Return steps times rate, for each shared parameter."""
        return {_DISTANCE + name: count * rates[name] for name, count in steps.items()}

    def init(self, params: Params, context: RoundContext) -> State:
        """Return :math:`c = 0`, float32, named and shaped as the parameters."""
        return State({name: np.zeros(value.shape, np.float32) for name, value in params.items()})

    def sent(self, state: State, params: Params) -> Params:
        """Return the server's control variate beside each parameter."""
        return {f"{name}/{_CONTROL}": control for name, control in state.arrays.items()}

    def applied(
        self, state: State, change: Params, aggregate: Aggregate, context: RoundContext
    ) -> tuple[State, Params]:
        """Add what all rows moved by; the control variate takes up the clients' changes."""
        beside = {f"{name}/{_CONTROL}": value for name, value in change.items()}
        differences = mean_update(beside, aggregate, "sum")
        controls, corrected = {}, {}
        for name, control in state.arrays.items():
            difference = differences[f"{name}/{_CONTROL}"] / context.n_clients
            controls[name] = (control + difference).astype(np.float32)
            total = float(from_fixed(np.array(aggregate.extras[_DISTANCE + name])))
            mean = total / aggregate.clients
            corrected[name] = change[name] - mean * control.astype(np.float64)
        return State(controls), corrected
