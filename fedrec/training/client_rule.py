"""The client half of a strategy: what it asks of its clients while they train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch

from fedrec.training.settings import Optimizers
from fedrec.types import ParamSpec

__all__ = ["ClientRule", "ClientUpdate", "HasClientRule", "ParamView", "client_rule_of"]

Tensor: TypeAlias = "torch.Tensor"


@dataclass(frozen=True, slots=True)
class ParamView:
    """One global parameter on its way through a client's round.

    For an item table the ``n`` rows are slots (see `fedrec.training.plan.PairBatch`), for a dense
    parameter they are clients.

    Args:
        value: float [n, *shape], now.
        start: float [n, *shape], as the round began.
        down: per name of `ClientRule.down`, float [n, *shape], what the server sent beside it.
        own: per name of `ClientRule.own`, float [n, *shape], what the client remembers of it.
        steps: float [n, 1, ...], the steps that the client makes in this round, at least 1.
        rate: step size of this parameter.
        touched: bool [n, 1, ...], whether the row is among the client's pairs of this round.
    """

    value: Tensor
    start: Tensor
    down: Mapping[str, Tensor]
    own: Mapping[str, Tensor]
    steps: Tensor
    rate: float
    touched: Tensor


@dataclass(frozen=True, slots=True)
class ClientUpdate:
    """What becomes of one global parameter after a client's round.

    Args:
        change: float [n, *shape], what is uploaded.
        up: per name of `ClientRule.up`, float [n, *shape], what is uploaded beside it.
        own: per name of `ClientRule.own`, float [n, *shape], what the client remembers. Of an item
            table, only the rows touched in this round are remembered, the others are forgotten.
    """

    change: Tensor
    up: Mapping[str, Tensor] = field(default_factory=dict)
    own: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClientRule:
    r"""By itself plain local training, or with a proximal term.

    Each name in ``down``, ``up`` and ``own`` stands for one array per global parameter, of its
    shape: ``item/control`` beside ``item``. What is ``own`` never leaves the client.

    Args:
        proximal: :math:`\mu \ge 0` of :math:`\tfrac{\mu}{2} \lVert x - x_\text{start} \rVert^2`,
            added to the loss of every step.
        down: names of what the server sends beside each global parameter.
        up: names of what the client uploads beside its change.
        own: names of what the client remembers.
    """

    proximal: float = 0.0
    down: tuple[str, ...] = ()
    up: tuple[str, ...] = ()
    own: tuple[str, ...] = ()

    @property
    def compiled(self) -> bool:
        """Whether it asks for no more than a proximal term, which the machine code knows."""
        return type(self) is ClientRule and not (self.down or self.up or self.own)

    def pull(self, drift: ParamView) -> Tensor | None:
        """A term of the gradient of a global parameter, float [n, *shape]; None for none.

        Args:
            drift: The parameter.
        """
        return self.proximal * (drift.value - drift.start) if self.proximal > 0 else None

    def finish(self, drift: ParamView) -> ClientUpdate:
        """What is uploaded and remembered after the last step of the round.

        Args:
            drift: The parameter; ``touched`` is what the round has touched.
        """
        return ClientUpdate(drift.value - drift.start)

    def extras(self, steps: Tensor, optimizers: Optimizers) -> Mapping[str, Tensor]:
        """Further numbers of each client, summed with its weight: per name, float [c].

        Args:
            steps: float [c], the steps that each client makes; 0 without data.
            optimizers: of local training, for their step sizes.
        """
        return {}

    def state(self, globals: Mapping[str, ParamSpec]) -> Mapping[str, ParamSpec]:
        """The local parameters that hold what is ``own``.

        Args:
            globals: The global parameters.
        """
        found = {}
        for name, spec in globals.items():
            per: Literal["touched", "client"] = "touched" if spec.role == "item_rows" else "client"
            for own in self.own:
                found[f"{name}/{own}"] = ParamSpec("local", spec.shape, per, trainable=False)
        if any(spec.per == "touched" for spec in found.values()):
            found["touched/items"] = ParamSpec(
                "local", (), "touched", init_value=-1, trainable=False, dtype="int32"
            )
        return found

    def travels(self, globals: Mapping[str, ParamSpec]) -> tuple[str, ...]:
        """The names of what it sends in either direction.

        Args:
            globals: The global parameters.
        """
        kinds = dict.fromkeys((*self.down, *self.up))
        return tuple(f"{name}/{kind}" for name in globals for kind in kinds)


@runtime_checkable
class HasClientRule(Protocol):
    """A strategy, as far as a client has to know it."""

    @property
    def client_rule(self) -> ClientRule:
        """What it asks of the client."""
        ...


def client_rule_of(strategy: object) -> ClientRule:
    """The client half of a strategy; plain training for one that names none."""
    return strategy.client_rule if isinstance(strategy, HasClientRule) else ClientRule()
