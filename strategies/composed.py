"""A strategy made of three parts: what clients do, how updates are joined, how the server steps."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from fedrec.aggregation.reduce import Summing, touched_rows
from fedrec.aggregation.returned import (
    check_finite,
    checked_change,
    checked_pair,
    checked_parameters,
    stored_state,
)
from fedrec.aggregation.update import Aggregate, Aggregates, Down, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.config.fields import PluginField
from fedrec.errors import ConfigError
from fedrec.plugins import name_of
from fedrec.training.client_rule import ClientRule
from fedrec.types import IntArray, Params, State
from strategies.aggregations.base import Aggregation
from strategies.aggregations.mean import Mean
from strategies.base import Strategy
from strategies.client_rules.plain import Plain
from strategies.server_optimizers.base import ServerOptimizer
from strategies.server_optimizers.sgd import SGD

_RULE, _AGGREGATION, _OPTIMIZER = "client_rule", "aggregation", "server_optimizer"


class Composed(Strategy):
    r"""A client rule, an aggregation and a server optimizer; any of them with any other.

    In a round the clients train by the rule, their changes become one change :math:`\Delta` by the
    aggregation, the rule may correct it, and the optimizer makes a step along it.

    Args:
        client_rule: What clients do besides plain training.
        aggregation: How the clients' changes become one.
        server_optimizer: How the server steps along it.
    """

    renamed: ClassVar[Mapping[str, str]] = {
        "average": "strategy.aggregation.average",
        "denominator": "strategy.aggregation.average",
        "weighting": "strategy.aggregation.weighting",
        "mu": "strategy.client_rule.mu",
        "byzantine": "strategy.aggregation.byzantine",
        "select": "strategy.aggregation.select",
        "server_lr": "strategy.server_optimizer.lr",
        "beta1": "strategy.server_optimizer.beta1",
        "beta2": "strategy.server_optimizer.beta2",
        "tau": "strategy.server_optimizer.tau",
        "bias_correction": "strategy.server_optimizer.bias_correction",
    }

    client_rule: Annotated[ClientRule, PluginField("client_rules", "none")] = Field(
        default_factory=Plain
    )
    aggregation: Annotated[Aggregation, PluginField("aggregations", "mean")] = Field(
        default_factory=Mean
    )
    server_optimizer: Annotated[ServerOptimizer, PluginField("server_optimizers", "sgd")] = Field(
        default_factory=SGD
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        rule, joint = self.client_rule, self.aggregation
        named = f"the client rule {name_of('client_rules', rule)}"
        sums = isinstance(joint, Mean) and joint.needs == "sums"
        mean, wanted = joint if isinstance(joint, Mean) and sums else None, rule.needs_average
        if wanted and (mean is None or mean.average not in wanted):
            came = name_of("aggregations", joint) if mean is None else f"average: {mean.average}"
            raise ValueError(
                f"aggregation: {named} needs the mean with average: {' or '.join(wanted)}, got "
                f"{came}; write {{name: mean, average: {wanted[0]}}}"
            )
        if rule.up and joint.needs == "each":
            raise ValueError(
                f"aggregation: {named} sends {' and '.join(rule.up)} to be summed, and "
                f"{name_of('aggregations', joint)} makes no sums; write mean"
            )
        if rule.needs_equal_weights and mean is not None and mean.weighting != "uniform":
            raise ValueError(
                f"aggregation: {named} needs every client to count the same, got weighting: "
                f"{mean.weighting}; write weighting: uniform"
            )
        if rule.moves_every_row and self.server_optimizer.moments == "lazy":
            raise ValueError(
                f"server_optimizer: {named} also moves rows that nobody touched in a round, which "
                "moments: lazy leaves where they are; write moments: dense"
            )
        return self

    @property
    def sees_each(self) -> bool:
        """Whether the aggregation needs every client's update."""
        return self.aggregation.needs == "each"

    @property
    def summing(self) -> Summing | None:
        """How the aggregation sums rows."""
        sees_rows = type(self).reduce is not Composed.reduce
        return None if sees_rows else self.aggregation.summing

    @property
    def measures(self) -> tuple[str, ...]:
        """What clients measure for the aggregation."""
        return self.aggregation.measures

    def init(self, params: Params, context: RoundContext) -> State:
        """Return the states of the three parts, each under its name."""
        parts = {
            _RULE: self.client_rule.init(params, context),
            _AGGREGATION: self.aggregation.init(params, context),
            _OPTIMIZER: self.server_optimizer.init(params),
        }
        of_part = {n: stored_state(f"{self._named(n)}: init", state) for n, state in parts.items()}
        return State.joined(of_part)

    def broadcast(
        self, state: State, params: Params, client_ids: IntArray, context: RoundContext
    ) -> Down:
        """Return the parameters, and what the client rule sends beside them."""
        return Down({**params, **self.client_rule.sent(state.part(_RULE), params)})

    def reduce(self, batch: UpdateBatch) -> Aggregate:
        """Return what the aggregation makes of some clients' updates."""
        return self.aggregation.reduce(batch)

    def apply(
        self, state: State, params: Params, aggregates: Aggregates, context: RoundContext
    ) -> tuple[State, Params]:
        """Return the state and parameters after one step of the server optimizer.

        Raises:
            ConfigError: If a class derived from this one has groups, but no ``apply`` for them.
        """
        if len(aggregates) > 1:
            raise ConfigError(
                f"strategy {name_of('strategies', self)}: has clients in {len(aggregates)} groups, "
                "but no apply of its own; define it"
            )
        (aggregate,) = aggregates.values()
        where = f"{self._named(_AGGREGATION)}: change"
        came = self.aggregation.change(state.part(_AGGREGATION), params, aggregate, context)
        joint, change = checked_pair(where, came, "changes")
        made_of = [*params.values(), *state.arrays.values()]
        change = checked_change(where, change, params, made_of)
        where = f"{self._named(_RULE)}: applied"
        came = self.client_rule.applied(state.part(_RULE), change, aggregate, context)
        rule, change = checked_pair(where, came, "changes")
        change = checked_change(where, change, params, made_of)
        touched = touched_rows(aggregate)
        came = self.server_optimizer.step(state.part(_OPTIMIZER), params, change, touched)
        where = f"{self._named(_OPTIMIZER)}: step"
        memory, after = checked_parameters(where, came, params)
        check_finite(where, after, [*made_of, *change.values()])
        return State.joined({_RULE: rule, _AGGREGATION: joint, _OPTIMIZER: memory}), after

    def _named(self, part: str) -> str:
        """Return what messages call a part."""
        return f"{part.replace('_', ' ')} {name_of(f'{part}s', getattr(self, part))}"
