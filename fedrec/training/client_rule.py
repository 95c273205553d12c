"""The client rule of a strategy: what it asks of its clients while they train."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor

from fedrec.aggregation.update import Aggregate
from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError
from fedrec.plugins import Plugin
from fedrec.types import Axis, Params, ParamSpec, State

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
        remembered: bool [n, 1, ...], whether the row is one that `ClientRule.memory` is of.
    """

    value: Tensor
    start: Tensor
    down: Mapping[str, Tensor]
    memory: Mapping[str, Tensor]
    steps: Tensor
    rate: float
    touched: Tensor
    remembered: Tensor


@dataclass(frozen=True, slots=True)
class ClientUpdate:
    """What becomes of one shared parameter after a client's round.

    Args:
        change: float [n, *shape], what is uploaded.
        up: per name of `ClientRule.up`, float [n, *shape], what is uploaded beside it.
        memory: per name of `ClientRule.memory`, float [n, *shape], what the client remembers; of
            an item table, of the rows that `ClientRule.remembers` says.
    """

    change: Tensor
    up: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Mapping[str, Tensor] = field(default_factory=dict)


class ClientRule(Plugin):
    r"""What a strategy asks of its clients; by itself plain local training.

    It has two sides. Clients call `gradient_term` in every step, then `finalize` and `extras`. The
    server calls `init`, `sent` and `applied`.

    Each name in ``down``, ``up`` and ``memory`` stands for one array per shared parameter, of its
    shape: ``item/control`` beside ``item``. What is in ``memory`` never leaves the client.

    Attributes:
        down: Names of what the server sends beside each shared parameter.
        up: Names of what the client uploads beside its change.
        memory: Names of what the client remembers.
        remembers: Of which rows of an item table ``memory`` is: ``seen``, those that the client
            touched in its last round; or ``positives``, the client's train items, whose memory
            lasts. Of a dense parameter it lasts always.
        needs_sgd: Whether it is right only where every step is the rate, above 0, times the
            gradient, as where it divides by steps times rate.
        needs_average: What the changes must be divided by for `applied` to be right, see
            `fedrec.aggregation.reduce.Average`; none: any aggregation will do.
        needs_equal_weights: Whether it is right only where every client counts the same.
        moves_every_row: Whether `applied` also changes rows that no client of the round touched.
        needs_one_version: Whether it is right only where all clients of a round received the same
            values, as where `applied` corrects what they send by what the server sent.
    """

    down: ClassVar[tuple[str, ...]] = ()
    up: ClassVar[tuple[str, ...]] = ()
    memory: ClassVar[tuple[str, ...]] = ()
    remembers: ClassVar[Literal["seen", "positives"]] = "seen"
    needs_sgd: ClassVar[bool] = False
    needs_average: ClassVar[tuple[str, ...]] = ()
    needs_equal_weights: ClassVar[bool] = False
    moves_every_row: ClassVar[bool] = False
    needs_one_version: ClassVar[bool] = False

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Refuse names that are one text, and memory of unknown rows."""
        for names in ("down", "up", "memory", "needs_average"):
            if isinstance(getattr(cls, names), str):
                raise ConfigError(
                    f"client rule {cls.__qualname__}: {names} is text, expected a tuple of names"
                )
        if cls.remembers not in ("seen", "positives"):
            raise ConfigError(
                f"client rule {cls.__qualname__}: expected remembers = 'seen' or 'positives'"
            )

    @property
    def proximal(self) -> float:
        r"""The weight :math:`\mu` of :math:`\tfrac{\mu}{2} \lVert x - x_\text{start} \rVert^2`.

        It is added to the loss of every step; 0 by default.
        """
        return 0.0

    @property
    def plain(self) -> bool:
        """Whether it asks for no more than a proximal term."""
        methods = ("gradient_term", "finalize", "extras")
        changed = any(getattr(type(self), n) is not getattr(ClientRule, n) for n in methods)
        return not (changed or self.down or self.up or self.memory)

    def gradient_term(self, view: ParamView) -> Tensor | None:
        """Return a term of the gradient of a shared parameter, float [n, *shape]; None for none."""
        return self.proximal * (view.value - view.start) if self.proximal > 0 else None

    def finalize(self, view: ParamView) -> ClientUpdate:
        """Return what is uploaded and remembered after the last step of the round."""
        return ClientUpdate(view.value - view.start)

    def extras(
        self, steps: Mapping[str, Tensor], rates: Mapping[str, float]
    ) -> Mapping[str, Tensor]:
        """Return further numbers of each client, summed with its weight: per name, float [c].

        Args:
            steps: Per shared parameter, float64 [c], the steps in which each client trains it.
            rates: Per shared parameter, the step size of the round.
        """
        return {}

    def init(self, params: Params, context: RoundContext) -> State:
        """Return what the server remembers before the first round; nothing by default."""
        return State()

    def sent(self, state: State, params: Params) -> Params:
        """Return what the server sends beside the shared parameters, ``NAME/KIND`` by ``down``."""
        return {}

    def applied(
        self, state: State, change: Params, aggregate: Aggregate, context: RoundContext
    ) -> tuple[State, Params]:
        """Return the next state, and the change of the shared parameters with the rule's share.

        Args:
            state: From `init` or the last round.
            change: Per shared parameter, float64, what the clients' changes were aggregated to.
            aggregate: The updates, with sums of ``up`` and of `extras`.
            context: The round.
        """
        return state, change

    def private(self, specs: Mapping[str, ParamSpec]) -> Mapping[str, ParamSpec]:
        """Return the private parameters that hold what is in ``memory``.

        Args:
            specs: Of the shared parameters.
        """
        of_rows: Axis = "seen_item" if self.remembers == "seen" else "positive"
        state = {
            f"{name}/{kind}": ParamSpec(
                "private", of_rows if spec.axis == "item" else "client", spec.shape, trainable=False
            )
            for name, spec in specs.items()
            for kind in self.memory
        }
        if any(spec.axis == "seen_item" for spec in state.values()):
            state[SEEN_ITEMS] = ParamSpec(
                "private", "seen_item", (), init_value=-1, trainable=False, dtype="int32"
            )
        return state

    def travels(self, specs: Mapping[str, ParamSpec]) -> tuple[str, ...]:
        """Return the names of what it sends in either direction beside the shared parameters."""
        kinds = dict.fromkeys((*self.down, *self.up))
        return tuple(f"{name}/{kind}" for name in specs for kind in kinds)


def client_rule_of(strategy: object) -> ClientRule:
    """Return the client rule of a strategy; plain training for one that names none.

    Raises:
        ConfigError: If it is no client rule, or its proximal term is not a finite number from 0.
    """
    rule = getattr(strategy, "client_rule", ClientRule())
    if isinstance(rule, ClientRule) and 0 <= rule.proximal < float("inf"):
        return rule
    raise ConfigError(
        f"strategy {type(strategy).__name__}: client_rule is {rule!r}, expected a ClientRule with "
        "a finite proximal from 0"
    )
