"""What the parts of a strategy return is checked at once, and the message names the part."""

from typing import Any

import numpy as np
import pytest

from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError
from fedrec.plugins import Plugin
from fedrec.testing.strategies import N_ITEMS, PARAMS, updates
from fedrec.types import Params
from strategies import FedAvg
from strategies.aggregations.mean import Mean
from strategies.aggregations.median import Median
from strategies.client_rules.plain import Plain
from strategies.server_optimizers.sgd import SGD

CLIENTS = 5
RETURNED: list[tuple[str, type[Plugin], str, Any, str]] = [
    (
        "aggregation",
        Median,
        "choose",
        lambda _, rows: np.median(rows, axis=1)[:, :1],
        r"floats \[7, 1\], expected floats \[7, 3\]",
    ),
    ("aggregation", Median, "choose", lambda *_: np.float64(1), r"floats \[\], expected floats \["),
    ("aggregation", Median, "choose", lambda _, rows: rows, r"floats \[7, 5, 3\], expected floats"),
    ("aggregation", Median, "choose", lambda *_: None, r"None, expected floats \[7, 3\]"),
    ("aggregation", Median, "choose", lambda _, rows: [*rows[:, 0]], "list, expected floats"),
    (
        "aggregation",
        Median,
        "choose",
        lambda _, rows: rows[:, 0] * np.float32(np.nan),
        "a value that is not finite though",
    ),
    ("aggregation", Mean, "init", lambda *_: None, "None as its state, expected a State"),
    (
        "aggregation",
        Mean,
        "change",
        lambda _, state, *__: state,
        r"State, expected \(state, changes",
    ),
    (
        "aggregation",
        Mean,
        "change",
        lambda _, state, params, *__: (state, {n: v * np.nan for n, v in params.items()}),
        "a 'item' that is not finite though",
    ),
    ("client_rule", Plain, "init", lambda *_: None, "None as its state, expected a State"),
    (
        "client_rule",
        Plain,
        "applied",
        lambda _, state, change, *__: (state, {**change, "item": change["item"][:1]}),
        r"'item' floats \[1, 3\], expected 'item' floats \[7, 3\]",
    ),
    ("server_optimizer", SGD, "init", lambda *_: {}, "dict as its state, expected a State"),
    ("server_optimizer", SGD, "step", lambda _, state, params, *__: params, r"dict, expected \(st"),
    (
        "server_optimizer",
        SGD,
        "step",
        lambda _, state, params, change, __: (state, {n: v + change[n] for n, v in params.items()}),
        r"'item' float64 \[7, 3\], .* expected 'item' float32 \[7, 3\]",
    ),
    (
        "server_optimizer",
        SGD,
        "step",
        lambda _, state, params, *__: (
            state,
            {n: v * np.float32(np.nan) for n, v in params.items()},
        ),
        "a 'item' that is not finite though",
    ),
    (
        "server_optimizer",
        SGD,
        "direction",
        lambda _, change, __: change,
        r"float64 \[7, 3\], expected \(what",
    ),
    (
        "server_optimizer",
        SGD,
        "direction",
        lambda _, change, __: (change, None),
        "None, expected values by name",
    ),
]
"""A part, its base, one of its methods, what that returns, and what is said of it."""


def odd(base: type[Plugin], method: str, returned: Any) -> Plugin:
    kind: Any = type(base)
    instance: Plugin = kind("Odd", (base,), {"__module__": __name__, method: returned})()
    return instance


def round_with(part: str, plugin: Plugin, params: Params = PARAMS) -> Params:
    """The parameters after a round of a strategy with a part."""
    strategy = FedAvg.model_validate({part: plugin})
    batch, context = updates([range(N_ITEMS)] * CLIENTS, 0), RoundContext(0, 1, CLIENTS, N_ITEMS)
    state = strategy.init(params, context)
    return strategy.apply(state, params, {0: strategy.reduce(batch)}, context)[1]


@pytest.mark.parametrize(("part", "base", "method", "returned", "said"), RETURNED)
def test_a_part(part: str, base: type[Plugin], method: str, returned: Any, said: str) -> None:
    named = rf"{part.replace('_', ' ')} {__name__}:Odd: {method}"
    with pytest.raises(
        ConfigError, match=rf"^{named}(: memory of 'item')? returned {said}"
    ) as raised:
        round_with(part, odd(base, method, returned))
    assert "\n" not in str(raised.value)
