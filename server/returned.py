"""Checks of what a strategy returns, so that a fault is named where it arises."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fedrec.errors import ConfigError, NumericError
from fedrec.plugins import name_of
from fedrec.types import Aggregate, IntArray, Params, State
from strategies.base import Strategy

__all__ = ["checked_apply", "checked_broadcast", "checked_groups", "checked_init"]

KINDS = "biuf"
WIDEST = 8


def checked_init(strategy: Strategy, params: Params, n_clients: int) -> State:
    """Return `Strategy.init`, checked.

    Args:
        strategy: The strategy.
        params: The initial shared parameters.
        n_clients: All clients of the run.

    Raises:
        ConfigError: If it is no state that a checkpoint can keep.
    """
    return _state(f"{_named(strategy)}: init", strategy.init(params, n_clients))


def checked_apply(
    strategy: Strategy,
    state: State,
    params: Params,
    aggregates: Mapping[int, Aggregate],
    round: int,
) -> tuple[State, Params]:
    """Return `Strategy.apply_groups`, checked.

    Args:
        strategy: The strategy.
        state: Its state.
        params: The shared parameters.
        aggregates: Per group, what its clients answered.
        round: The round, for messages.

    Raises:
        ConfigError: If the values returned are not a state and parameters with the names, shapes
            and types of ``params``.
        NumericError: If a value is not finite.
    """
    where = f"round {round}, {_named(strategy)}: apply"
    returned = strategy.apply_groups(state, params, aggregates)
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise ConfigError(f"{where} returned {_kind(returned)}, expected (state, parameters)")
    return _state(where, returned[0]), _params(where, returned[1], params)


def checked_broadcast(strategy: Strategy, state: State, params: Params, group: int) -> Params:
    """Return `Strategy.broadcast`, checked.

    Args:
        strategy: The strategy.
        state: Its state.
        params: The shared parameters.
        group: Of `Strategy.groups`.

    Raises:
        ConfigError: If the values returned are not the parameters and what the client rule asks
            for, each of its shape and type.
        NumericError: If a value is not finite.
    """
    sent = strategy.broadcast(state, params, group)
    if sent is params:
        return params
    down = strategy.client_rule.down
    beside = {f"{name}/{kind}": value for name, value in params.items() for kind in down}
    return _params(f"{_named(strategy)}: broadcast", sent, {**params, **beside})


def checked_groups(strategy: Strategy, state: State, clients: IntArray) -> IntArray:
    """Return `Strategy.groups`, checked.

    Args:
        strategy: The strategy.
        state: Its state.
        clients: int64 [c].

    Raises:
        ConfigError: If it is not a whole number from 0 for each client.
    """
    groups: Any = strategy.groups(state, clients)
    if (
        not isinstance(groups, np.ndarray)
        or groups.shape != clients.shape
        or groups.dtype.kind not in "iu"
        or (groups < 0).any()
    ):
        raise ConfigError(
            f"{_named(strategy)}: groups returned {_kind(groups)} {list(np.shape(groups))}, "
            f"expected a whole number from 0 for each of {len(clients)} clients"
        )
    return np.asarray(groups, np.int64)


def _params(where: str, returned: Any, expected: Params) -> Params:
    if not isinstance(returned, Mapping):
        raise ConfigError(f"{where} returned {_kind(returned)}, expected parameters by name")
    arrays = _arrays(returned)
    if arrays.keys() != expected.keys():
        raise ConfigError(f"{where} returned {_names(arrays)}, expected {_names(expected)}")
    for name, like in expected.items():
        value = arrays[name]
        if not isinstance(value, np.ndarray):
            raise ConfigError(f"{where} returned {_kind(value)} as '{name}', expected an array")
        if value.shape != like.shape or value.dtype != np.float32:
            raise ConfigError(
                f"{where} returned '{name}' as {value.dtype} {list(value.shape)}, expected "
                f"float32 {list(like.shape)}"
            )
        if not np.isfinite(value).all():
            raise NumericError(
                f"{where} returned a '{name}' that is not finite; lower strategy.server_lr or the "
                "rates of train.optimizers"
            )
    return arrays


def _arrays(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values, with arrays in place of the scalars that numpy makes of arrays of none."""
    return {n: np.asarray(v) if isinstance(v, np.generic) else v for n, v in values.items()}


def _state(where: str, state: Any) -> State:
    if not isinstance(state, State):
        raise ConfigError(f"{where} returned {_kind(state)} as its state, expected a State")
    arrays = _arrays(state.arrays)
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or (
            array.dtype.kind not in KINDS or array.dtype.itemsize > WIDEST
        ):
            raise ConfigError(
                f"{where} returned {_kind(array)} as '{name}' of its state, expected an array of "
                "truth values, integers or floats"
            )
    try:
        as_json = json.loads(json.dumps(dict(state.values)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} returned a state whose values are not JSON: {error}") from error
    if as_json != state.values:
        raise ConfigError(
            f"{where} returned a state whose values JSON would change, such as tuples or keys that "
            "are no text; expected lists, and text as keys"
        )
    return State(arrays, state.values)


def _named(strategy: Strategy) -> str:
    return f"strategy {name_of('strategies', strategy)}"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(map(str, names))) or "nothing"


def _kind(value: Any) -> str:
    kind = "None" if value is None else type(value).__name__
    return f"{kind} of {value.dtype}" if isinstance(value, np.ndarray) else kind
