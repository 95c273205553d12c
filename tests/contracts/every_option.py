"""Plug-ins with random options: each choice that a field names, and each plug-in of its table."""

from typing import Any, Literal, get_args, get_origin

# The strategy flower imports it, which draws random numbers; hypothesis allows none in a draw.
import flwr.serverapp.strategy  # noqa: F401
from hypothesis import strategies as st

from fedrec.config.fields import PluginField
from fedrec.plugins import Plugin, name_of, table
from fedrec.training.client_rule import ClientRule
from strategies import STRATEGIES, Composed, Strategy

__all__ = ["COMPOSED", "FITTING", "NAMES", "strategies_of"]

COMPOSED = "random parts"
NAMES = (*sorted(STRATEGIES), COMPOSED)
"""The strategies of the table, and any parts with any others."""

FITTING: dict[str, dict[str, Any]] = {
    # The groups are made after the first of two rounds.
    "clustered": {"warmup": 1, "clusters": 2, "buckets": 4},
}
"""Options with which a plug-in shows in two rounds of a few clients what it does."""

Limits = dict[str, tuple[str, ...]]
"""By field, the values that are allowed."""


@st.composite
def options_of(draw: st.DrawFn, kind: type[Plugin], limits: Limits) -> dict[str, Any]:
    """Options of a plug-in: of each field that has a few values one of them."""
    options: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        if mark := plugin_field(kind, name):
            usual = field.get_default(call_default_factory=True)
            fitting = FITTING.get(name_of(mark.kind, usual), {})
            options[name] = {**draw(options_of(type(usual), limits)), **fitting}
        elif field.annotation is bool:
            options[name] = draw(st.booleans())
        elif get_origin(field.annotation) is Literal:
            offered = get_args(field.annotation)
            allowed = [each for each in offered if each in limits.get(name, offered)]
            options[name] = draw(st.sampled_from(allowed or offered))
    return options


def plugin_field(kind: type[Plugin], name: str) -> PluginField | None:
    """What a field says of the plug-in that it holds; None if it holds none."""
    marks = kind.model_fields[name].metadata
    return next((mark for mark in marks if isinstance(mark, PluginField)), None)


@st.composite
def parts_of(draw: st.DrawFn, kind: str, limits: Limits) -> dict[str, Any]:
    """A name of a table, with options."""
    name = draw(st.sampled_from(limits.get(kind, tuple(sorted(table(kind))))))
    options = draw(options_of(table(kind)[name], limits))
    return {"name": name, **options, **FITTING.get(name, {})}


def limits_of(rule: type[Plugin], means: bool) -> Limits:
    """What a client rule allows of the other parts.

    With ``means``, what equal clients send is taken: it is not summed, no item is skipped, and no
    row is shortened because other rows are short.
    """
    assert issubclass(rule, ClientRule)
    averages = rule.needs_average or (("per_row", "cohort") if means else ())
    limits = {"average": averages} if averages else {}
    if means:
        limits |= {"below": ("median", "mean"), "per": ("update",)}
    if rule.needs_average:
        limits["aggregations"] = ("mean",)
    if rule.needs_equal_weights:
        limits["weighting"] = ("uniform",)
    if rule.moves_every_row:
        limits["moments"] = ("dense",)
    return limits


@st.composite
def strategies_of(draw: st.DrawFn, name: str, means: bool = False) -> Strategy:
    """One of `NAMES` with random options; ``means``: not with plain sums."""
    kind: type[Strategy] = STRATEGIES.get(name, Composed)
    usual = kind()
    rule = type(usual.client_rule) if isinstance(usual, Composed) else ClientRule
    if name != COMPOSED:
        options = draw(options_of(kind, limits_of(rule, means)))
        return kind.model_validate({**options, **FITTING.get(name, {})})
    chosen = draw(parts_of("client_rules", {}))
    limits = limits_of(table("client_rules")[chosen["name"]], means)
    tables = ("aggregations", "server_optimizers")
    aggregation, optimizer = (draw(parts_of(of_table, limits)) for of_table in tables)
    return Composed(client_rule=chosen, aggregation=aggregation, server_optimizer=optimizer)
