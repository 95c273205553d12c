"""Checks of what a strategy returns, so that a fault is named where it arises."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from fedrec.aggregation.update import Aggregate, Down, Mix, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError, check_same, check_shapes, kind_of, not_finite
from fedrec.plugins import name_of
from fedrec.ragged import Ragged
from fedrec.types import FloatArray, IntArray, Params, State

Strategy: TypeAlias = Any
"""A `strategies.Strategy`; this package lies below those that define strategies."""
ClientRule: TypeAlias = Any
"""A `fedrec.training.client_rule.ClientRule`, of which the same holds."""
Selection: TypeAlias = Any
"""A `strategies.selections.Selection`, likewise."""

_TRAVELS = (np.float32, np.float16, np.int8)
"""Types of values that may take the place of wider ones."""


def checked_init(strategy: Strategy, params: Params, context: RoundContext) -> State:
    """Return `Strategy.init`.

    Raises:
        ConfigError: If it is no state that a checkpoint can keep.
    """
    return stored_state(f"{_named(strategy)}: init", strategy.init(params, context))


def checked_apply(
    strategy: Strategy,
    state: State,
    params: Params,
    aggregates: Mapping[int, Aggregate],
    context: RoundContext,
) -> tuple[State, Params]:
    """Return `Strategy.apply`.

    Raises:
        ConfigError: If it is not a state and parameters with the names, shapes and types of
            ``params``; names the round.
        NumericError: If a parameter is not finite, as large ones make it.
    """
    where = f"{_named(strategy)}: apply"
    returned: Any = strategy.apply(state, params, aggregates, context)
    new, after = checked_parameters(f"round {context.round}, {where}", returned, params)
    check_finite(where, after, [*params.values(), *state.arrays.values()])
    return new, after


def checked_broadcast(
    strategy: Strategy,
    rule: ClientRule,
    state: State,
    params: Params,
    client_ids: IntArray,
    context: RoundContext,
) -> Down:
    """Return `Strategy.broadcast`.

    Raises:
        ConfigError: If it is not the parameters and what the client rule asks for, each of its
            shape and type, one is both shared and of the clients' own, or some are of the clients'
            own and the strategy's ``payload`` does not say so.
        NumericError: If a value is not finite.
    """
    where = f"{_named(strategy)}: broadcast"
    beside = {f"{name}/{kind}": value for name, value in params.items() for kind in rule.down}
    returned: Any = strategy.broadcast(state, params, client_ids, context)
    _require(isinstance(returned, Down), where, returned, "a Down")
    down: Down = returned
    if down.own and strategy.payload == "shared":
        raise ConfigError(
            f"{where} returned values of clients' own, but payload is 'shared'; declare payload = "
            "'group' or 'client'"
        )
    bases, made_of = {}, [*params.values(), *state.arrays.values()]
    for name, mix in down.own.items():
        if name in down.shared:
            raise ConfigError(f"{where} returned '{name}' in shared and in own, expected it in one")
        _require(isinstance(mix, Mix), where, mix, f"a Mix as '{name}'")
        if not len(mix.bases):
            raise ConfigError(f"{where} returned no base values of '{name}', expected one or more")
        expected = f"{len(client_ids)} rows of weights for the base values of '{name}'"
        weights = np.asarray(mix.weights)
        fits = weights.shape == (len(client_ids), len(mix.bases))
        _require(fits and weights.dtype == np.float32, where, weights, f"{expected}, float32")
        bases[name] = mix.bases[0]
        check_finite(where, {name: mix.bases, f"weights of {name}": weights}, made_of)
    shared = _params(where, {**down.shared, **bases}, {**params, **beside})
    check_finite(where, shared, made_of)
    return down


def checked_sum(strategy: Strategy, method: str, clients: int, *arguments: Any) -> Aggregate:
    """Return what ``reduce`` or ``merge`` gives for a number of clients.

    Raises:
        ConfigError: If it is not an aggregate of as many, or has no sum of what they sent.
    """
    where = f"{_named(strategy)}: {method}"
    aggregate: Aggregate = getattr(strategy, method)(*arguments)
    came = {"": f"a sum of {getattr(aggregate, 'clients', 'no')} clients"}
    check_same(where, came, {"": f"a sum of {clients} clients"})
    given: UpdateBatch | Aggregate = arguments[0]
    names = {*given.sums} if isinstance(given, Aggregate) else {*_values(given), *given.summed}
    lost = sorted(names - aggregate.sums.keys())
    if lost and aggregate.each is None:
        raise ConfigError(f"{where} returned no sum of '{lost[0]}', expected one of each parameter")
    return aggregate


def merged(strategy: Strategy, aggregate: Aggregate | None, other: Aggregate) -> Aggregate:
    """Return `Strategy.merge`; the other where there is none yet; raise as `checked_sum` does."""
    if aggregate is None:
        return other
    return checked_sum(strategy, "merge", aggregate.clients + other.clients, aggregate, other)


def checked_groups(strategy: Strategy, state: State, clients: IntArray) -> IntArray:
    """Return `Strategy.groups`, int64.

    Raises:
        ConfigError: If it is not a whole number from 0 below 2**31 for each client.
    """
    groups: Any = strategy.groups(state, clients)
    is_array = isinstance(groups, np.ndarray) and groups.dtype.kind in "iu"
    fits = is_array and groups.shape == clients.shape and not (groups >> 31).any()
    expected = f"a whole number from 0 below 2**31 for each of {len(clients)} clients"
    _require(fits, f"{_named(strategy)}: groups", groups, expected)
    return np.asarray(groups, np.int64)


def checked_choice(
    selection: Selection, state: State, size: int, context: RoundContext
) -> IntArray:
    """Return what a selection chooses, int64.

    Raises:
        ConfigError: If it is not the sorted ids of different clients; names the round.
    """
    chosen: Any = selection.choose(state, size, context)
    is_array = isinstance(chosen, np.ndarray) and chosen.dtype.kind in "iu" and chosen.ndim == 1
    fits = is_array and (np.diff(chosen) > 0).all()
    fits = fits and (not len(chosen) or (chosen[0] >= 0 and chosen[-1] < context.n_clients))
    where = f"round {context.round}, selection {name_of('selections', selection)}: choose"
    expected = f"sorted whole numbers from 0 below {context.n_clients}, each once"
    _require(bool(fits), where, chosen, expected)
    return np.asarray(chosen, np.int64)


def checked_state(selection: Selection, method: str, state: State, context: RoundContext) -> State:
    """Return the state that a method of a selection returned.

    Raises:
        ConfigError: If it is no state that a checkpoint can keep; names the round.
    """
    name = name_of("selections", selection)
    return stored_state(f"round {context.round}, selection {name}: {method}", state)


def checked_update(
    where: str, returned: Any, like: UpdateBatch, context: RoundContext
) -> UpdateBatch:
    """Return updates that a plug-in made of others.

    Args:
        where: Who made them, for errors.
        returned: What it returned.
        like: What it was given.
        context: The round.

    Raises:
        ConfigError: If they are not of the same clients, parameters and shapes, values are of a
            wider type or not finite, weights are no finite numbers from 0, or rows are no items of
            the catalogue.
        NumericError: If values are not finite, as large ones make them.
    """
    _require(isinstance(returned, UpdateBatch), where, returned, "the updates of the same clients")
    batch: UpdateBatch = returned
    if not np.array_equal(batch.client_ids, like.client_ids):
        raise ConfigError(f"{where} returned updates of other clients, or in another order")
    before = _values(like)
    check_same(where, _forms(batch, before), _forms(like, before))
    if not (np.isfinite(batch.weight) & (batch.weight >= 0)).all():
        raise ConfigError(f"{where} returned a weight that is no finite number from 0")
    for name, values in _values(batch).items():
        if not np.isfinite(values).all() and np.isfinite(before[name]).all():
            check_finite(where, {name: values}, before.values())
    for name, block in {**batch.tables, **batch.coded}.items():
        ids, owners = np.asarray(block.ids), Ragged(block.offsets, block.ids).owners()
        fits = len(owners) == len(ids) == len(block.values)
        inside = fits and ((ids >= 0) & (ids < context.n_items)).all()
        same_client = owners[1:] == owners[:-1] if fits else owners[:0]
        if not inside or (ids[1:] <= ids[:-1])[same_client].any():
            raise ConfigError(
                f"{where} returned rows of '{name}' that are not {context.n_items} items or fewer "
                "for each client, sorted, each once"
            )
        if block.scale is not None:
            expected = {f"scale of {name}": np.empty(len(ids), np.float16)}
            check_shapes(where, dict.fromkeys(expected, block.scale), expected, typed=True)
    return batch


def checked_aggregate(where: str, returned: Any, like: Aggregate) -> Aggregate:
    """Return an aggregate that a plug-in made of another.

    Raises:
        ConfigError: If it is not of as many clients, or a sum has another name, shape or type.
    """
    _require(isinstance(returned, Aggregate), where, returned, "an aggregate")
    sums, before = ({n: kind_of(v) for n, v in each.sums.items()} for each in (returned, like))
    sums[""], before[""] = (f"a sum of {each.clients} clients" for each in (returned, like))
    check_same(where, sums, before)
    aggregate: Aggregate = returned
    return aggregate


def checked_pair(where: str, returned: Any, second: str) -> tuple[State, Any]:
    """Return a state and something else that a plug-in returned.

    Raises:
        ConfigError: If it is no pair, or the first no state that a checkpoint can keep.
    """
    first, other = pair_of(where, returned, f"(state, {second})")
    return stored_state(where, first), other


def pair_of(where: str, returned: Any, expected: str) -> tuple[Any, Any]:
    """Return two things that a plug-in returned.

    Raises:
        ConfigError: If it is no pair.
    """
    _require(isinstance(returned, tuple) and len(returned) == 2, where, returned, expected)
    return returned[0], returned[1]


def checked_parameters(where: str, returned: Any, params: Params) -> tuple[State, Params]:
    """Return a state and the shared parameters that a plug-in returned.

    Raises:
        ConfigError: If it is no pair of a state and parameters with the names, shapes and types of
            ``params``.
    """
    state, after = checked_pair(where, returned, "parameters")
    return state, _params(where, after, params)


def check_finite(where: str, arrays: Params, made_of: Iterable[Any]) -> None:
    """Check that arrays that a plug-in returned are finite.

    Args:
        where: Which method of which plug-in, for errors.
        arrays: By name.
        made_of: Arrays from which they were made.

    Raises:
        ConfigError: If one is not finite.
        NumericError: If one is not finite, as large values make it.
    """
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            named = f"a '{name}'" if name else "a value"
            raise not_finite(f"{where} returned {named} that is not finite", made_of)


def checked_change(where: str, returned: Any, like: Params, made_of: Iterable[Any]) -> Params:
    """Return changes by name that a part of a strategy returned.

    Args:
        where: Which part, and its method.
        returned: What it returned.
        like: Floats of the expected names and shapes.
        made_of: Arrays from which it was made.

    Raises:
        ConfigError: If it is not an array of floats of each name and shape, or not finite.
        NumericError: If it is not finite, as large values make it.
    """
    _require(isinstance(returned, Mapping), where, returned, "a change of each parameter by name")
    arrays = _arrays(returned)
    forms = ({n: _floats(v) for n, v in each.items()} for each in (arrays, _arrays(like)))
    check_same(where, *forms)
    check_finite(where, arrays, made_of)
    return arrays


def _values(batch: UpdateBatch) -> dict[str, FloatArray]:
    """Return the values of each parameter, as they travel."""
    blocks = {**batch.tables, **batch.coded}
    return {**{name: block.values for name, block in blocks.items()}, **batch.dense}


def _forms(batch: UpdateBatch, before: Mapping[str, FloatArray]) -> dict[str, str]:
    """Return the type and shape of a row of each parameter, and the number of weights and the like.

    Args:
        batch: The updates.
        before: Values whose type stands for narrower ones in which values may travel.
    """
    bases = {n: b.basis for n, b in {**batch.tables, **batch.coded}.items() if b.basis is not None}
    forms = {}
    for name, values in _values(batch).items():
        kind = kind_of(values)
        if isinstance(values, np.ndarray):
            like = before[name].dtype if name in before else values.dtype
            narrow = values.dtype in _TRAVELS and values.dtype.itemsize < like.itemsize
            shape = [bases[name].shape[1]] if name in bases else [*values.shape[1:]]
            kind = f"{like if narrow else values.dtype} {shape}"
        forms[name] = kind
    numbers = {"weight": batch.weight, **batch.metrics, **batch.extras}
    return forms | {f"{name} of clients": _floats(value) for name, value in numbers.items()}


def _require(fits: bool, where: str, returned: Any, expected: str, name: str = "") -> None:
    if not fits:
        raise ConfigError(f"{where} returned {kind_of(returned)}{name}, expected {expected}")


def _params(where: str, returned: Any, expected: Params) -> Params:
    _require(isinstance(returned, Mapping), where, returned, "parameters by name")
    arrays = _arrays(returned)
    kinds = {name: f"float32 {list(like.shape)}" for name, like in expected.items()}
    check_same(where, {name: kind_of(array) for name, array in arrays.items()}, kinds)
    return arrays


def stored_state(where: str, state: Any) -> State:
    """Return a state that a plug-in returned.

    Raises:
        ConfigError: If a checkpoint cannot keep it.
    """
    by_name = isinstance(getattr(state, "arrays", None), Mapping)
    _require(by_name, where, state, "a State of arrays by name", " as its state")
    arrays = _arrays(state.arrays)
    for name, array in arrays.items():
        dtype = getattr(array, "dtype", np.dtype(object))
        fits = dtype.kind in "biuf" and dtype.itemsize <= 8
        expected = "an array of truth values, integers or floats"
        _require(fits, where, array, expected, f" as '{name}' of its state")
    try:
        as_json = json.loads(json.dumps(dict(state.values)))
    except (TypeError, ValueError) as error:
        as_json = error
    if as_json != state.values:
        raise ConfigError(
            f"{where} returned a state whose values are not JSON, or would be changed by it "
            f"({as_json}); expected numbers, text, lists, and text as keys"
        )
    return State(arrays, state.values)


def _arrays(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values, with arrays in place of the scalars that numpy makes of arrays of none."""
    return {n: np.asarray(v) if isinstance(v, np.generic) else v for n, v in values.items()}


def _named(strategy: Strategy) -> str:
    return f"strategy {name_of('strategies', strategy)}"


def _floats(value: Any) -> str:
    """Return what `kind_of` does, with one word for all floats."""
    is_float = isinstance(value, np.ndarray) and value.dtype.kind == "f"
    return f"floats {list(value.shape)}" if is_float else kind_of(value)
