"""The client rule of a strategy: what it asks of its clients while they train."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from fedrec.errors import ConfigError
from fedrec.training.optimizers import Optimizers
from fedrec.types import Axis, ParamSpec

SEEN_ITEMS = "seen/items"
"""The private parameter that says which items a client rule remembers, -1 where there is none."""


@dataclass(frozen=True, slots=True)
class ParamView:
    """One shared parameter on its way through a client's round.

    For an item table the ``n`` rows are the local rows of a plan, for a dense parameter they are
    clients.

    Args:
        value: float [n, *shape], now.
        start: float [n, *shape], as the round began.
        down: per name of `ClientRule.down`, float [n, *shape], what the server sent beside it.
        memory: per name of `ClientRule.memory`, float [n, *shape], what the client remembers of it.
        steps: float [n, 1, ...], the steps that the client makes in this round, at least 1.
        rate: step size of this parameter in this round.
        touched: bool [n, 1, ...], whether the row is among the client's pairs of this round.
    """

    value: Tensor
    start: Tensor
    down: Mapping[str, Tensor]
    memory: Mapping[str, Tensor]
    steps: Tensor
    rate: float
    touched: Tensor


@dataclass(frozen=True, slots=True)
class ClientUpdate:
    """What becomes of one shared parameter after a client's round.

    Args:
        change: float [n, *shape], what is uploaded.
        up: per name of `ClientRule.up`, float [n, *shape], what is uploaded beside it.
        memory: per name of `ClientRule.memory`, float [n, *shape], what the client remembers. Of an
            item table, only the rows touched in this round are remembered.
    """

    change: Tensor
    up: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClientRule:
    r"""By itself plain local training, or with a proximal term.

    Each name in ``down``, ``up`` and ``memory`` stands for one array per shared parameter, of its
    shape: ``item/control`` beside ``item``. What is in ``memory`` never leaves the client.

    Args:
        proximal: :math:`\mu \ge 0` of :math:`\tfrac{\mu}{2} \lVert x - x_\text{start} \rVert^2`,
            added to the loss of every step.
        down: names of what the server sends beside each shared parameter.
        up: names of what the client uploads beside its change.
        memory: names of what the client remembers.

    Attributes:
        needs_sgd: Whether it is right only where every step is the rate, above 0, times the
            gradient, as where it divides by steps times rate.
    """

    needs_sgd: ClassVar[bool] = False

    proximal: float = 0.0
    down: tuple[str, ...] = ()
    up: tuple[str, ...] = ()
    memory: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether it asks for no more than a proximal term."""
        return type(self) is ClientRule and not (self.down or self.up or self.memory)

    def gradient_term(self, view: ParamView) -> Tensor | None:
        """Return a term of the gradient of a shared parameter, float [n, *shape]; None for none."""
        return self.proximal * (view.value - view.start) if self.proximal > 0 else None

    def finalize(self, view: ParamView) -> ClientUpdate:
        """Return what is uploaded and remembered after the last step of the round."""
        return ClientUpdate(view.value - view.start)

    def extras(self, steps: Tensor, optimizers: Optimizers) -> Mapping[str, Tensor]:
        """Return further numbers of each client, summed with its weight: per name, float [c].

        Args:
            steps: float [c], the steps that each client makes; 0 without data.
            optimizers: of local training, with the step sizes of the round.
        """
        return {}

    def state(self, globals: Mapping[str, ParamSpec]) -> Mapping[str, ParamSpec]:
        """Return the private parameters that hold what is in ``memory``."""
        state = {}
        for name, spec in globals.items():
            axis: Axis = "seen_item" if spec.axis == "item" else "client"
            for kind in self.memory:
                state[f"{name}/{kind}"] = ParamSpec("private", axis, spec.shape, trainable=False)
        if any(spec.axis == "seen_item" for spec in state.values()):
            state[SEEN_ITEMS] = ParamSpec(
                "private", "seen_item", (), init_value=-1, trainable=False, dtype="int32"
            )
        return state

    def travels(self, globals: Mapping[str, ParamSpec]) -> tuple[str, ...]:
        """Return the names of what it sends in either direction beside the shared parameters."""
        kinds = dict.fromkeys((*self.down, *self.up))
        return tuple(f"{name}/{kind}" for name in globals for kind in kinds)


def client_rule_of(strategy: object) -> ClientRule:
    """Return the client rule of a strategy; plain training for one that names none.

    Raises:
        ConfigError: If it is no client rule, or its fields are not what they are to be.
    """
    rule = getattr(strategy, "client_rule", ClientRule())
    if (
        isinstance(rule, ClientRule)
        and 0 <= rule.proximal < float("inf")
        and not any(isinstance(names, str) for names in (rule.down, rule.up, rule.memory))
    ):
        return rule
    raise ConfigError(
        f"strategy {type(strategy).__name__}: client_rule returned {rule!r}, expected a ClientRule "
        "with tuples of names and a finite proximal from 0"
    )
