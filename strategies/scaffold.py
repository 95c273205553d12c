"""SCAFFOLD (Karimireddy et al., 2020): control variates against the drift of clients."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from fedrec.aggregation.fixed_point import from_fixed
from fedrec.aggregation.reduce import mean_update, stepped
from fedrec.training.client_rule import ClientRule, ClientUpdate, ParamView
from fedrec.training.optimizers import Optimizers
from fedrec.types import Aggregate, Params
from strategies.base import Averaging, State

_CONTROL = "control"
_DRIFT = {True: "drift", False: "drift_shared"}
"""Steps times rate; True: of item tables."""
_OF_CLIENT = "own_control"
"""Not the name of anything that travels, so the wire refuses it."""


@dataclass(frozen=True, slots=True)
class _Client(ClientRule):
    r"""Steps along :math:`g - c_u + c`; remembers :math:`c_u`, the mean gradient of its last round.

    A row that the client does not touch has :math:`g = 0`, so with K steps of rate :math:`\eta_l`
    it moves by :math:`-K \eta_l (c - c_u)`, and its new :math:`c_u` is 0: what is remembered stays
    as sparse as the client. Of the movement, :math:`-K \eta_l c` is the same for every row of the
    table: the client uploads K :math:`\eta_l` instead (``drift``) and the server adds it.
    """

    needs_sgd: ClassVar[bool] = True

    down: tuple[str, ...] = (_CONTROL,)
    up: tuple[str, ...] = (_CONTROL,)
    memory: tuple[str, ...] = (_OF_CLIENT,)

    def gradient_term(self, view: ParamView) -> torch.Tensor:
        """Return ``c - c_u``."""
        return view.down[_CONTROL] - view.memory[_OF_CLIENT]

    def finalize(self, view: ParamView) -> ClientUpdate:
        """Return the new c_u from the distance gone: option II of the paper."""
        change = view.value - view.start
        server, old = view.down[_CONTROL], view.memory[_OF_CLIENT]
        reached = view.steps * view.rate
        new = old - server - change / reached
        new = torch.where(view.touched, new, torch.zeros_like(new))
        return ClientUpdate(change + reached * server, {_CONTROL: new - old}, {_OF_CLIENT: new})

    def extras(self, steps: torch.Tensor, optimizers: Optimizers) -> Mapping[str, torch.Tensor]:
        """Return steps times rate, for item tables and for the other shared parameters."""
        return {
            _DRIFT[True]: steps * optimizers.item.lr,
            _DRIFT[False]: steps * optimizers.shared.lr,
        }


class Scaffold(Averaging):
    r"""Averaging whose clients correct their gradients by control variates.

    .. math:: y \leftarrow y - \eta_l (g_u(y) - c_u + c), \quad
              c_u^+ = c_u - c + \tfrac{1}{K \eta_l}(x - y), \quad
              x \leftarrow x + \eta \tfrac{1}{|S|} \sum_u (y_u - x), \quad
              c \leftarrow c + \tfrac{1}{N} \sum_u (c_u^+ - c_u)

    Exact also for the rows that a client does not touch. Every row of a table moves for every
    client, so the mean is over the cohort. K is the client's own number of steps.

    Args:
        average: ``cohort``, as published, or ``sum``: changes are not divided.
        server_lr: :math:`\eta`.

    Reference: karimireddy2020scaffold, Algorithm 1, option II.
    """

    reference: ClassVar[str] = "karimireddy2020scaffold"

    weighting: Literal["uniform"] = "uniform"
    average: Literal["cohort", "sum"] = "cohort"

    @property
    def client_rule(self) -> ClientRule:
        """Control variates."""
        return _Client()

    def init(self, params: Params, n_clients: int) -> State:
        """Return :math:`c = 0`, float32, named and shaped as the parameters; and ``clients``, N."""
        zeros = {name: np.zeros(value.shape, np.float32) for name, value in params.items()}
        return State(zeros, {"clients": n_clients})

    def broadcast(self, state: State, params: Params, group: int) -> Params:
        """Return the parameters, and the server's control variate beside each."""
        return {**params, **{f"{n}/{_CONTROL}": c for n, c in state.arrays.items()}}

    def apply(self, state: State, params: Params, aggregate: Aggregate) -> tuple[State, Params]:
        """Step along the mean change; the control variate takes up the clients' changes."""
        change = mean_update(params, aggregate, self.average)
        divisor = aggregate.clients if self.average == "cohort" else 1
        drift = {
            table: float(from_fixed(np.array(aggregate.extras[name]))) / divisor
            for table, name in _DRIFT.items()
        }
        beside = {f"{name}/{_CONTROL}": value for name, value in params.items()}
        differences = mean_update(beside, aggregate, "sum")
        control, with_drift = {}, {}
        for name, value in state.arrays.items():
            difference = differences[f"{name}/{_CONTROL}"] / state.values["clients"]
            control[name] = (value + difference).astype(np.float32)
            with_drift[name] = change[name] - drift[name in aggregate.ids] * value.astype(
                np.float64
            )
        return State(control, state.values), stepped(params, with_drift, self.server_lr)
