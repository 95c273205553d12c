"""What the parts of a strategy must keep: aggregations and server optimizers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from fedrec.aggregation.reduce import merge
from fedrec.aggregation.update import RowBlock, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.ragged import offsets_of
from fedrec.testing.trial import as_bytes, require
from fedrec.training.task import MEASURES
from fedrec.types import FloatArray, IntArray, Params, State

Part: TypeAlias = Any
"""An aggregation or a server optimizer, whose base classes are above this package."""

N_ITEMS, WIDTH, CLIENTS = 7, 3, 12
PARAMS: Mapping[str, FloatArray] = {
    "item": np.linspace(-1, 1, N_ITEMS * WIDTH).reshape(N_ITEMS, WIDTH).astype(np.float32),
    "bias": np.linspace(0, 1, N_ITEMS).astype(np.float32),
    "head": np.ones((2, WIDTH), np.float32),
    "constant": np.array(0.5, np.float32),
}
"""Two item tables and two dense parameters."""


def updates(
    rows: Sequence[Sequence[int]], seed: int, equal: bool = False, params: Params = PARAMS
) -> UpdateBatch:
    """Return updates of clients, drawn from a normal distribution.

    Values are rounded to multiples of 2**-12, so that products with small whole numbers are exact
    in fixed point.

    Args:
        rows: Of each client, the items whose rows it changes, sorted.
        seed: Of the draws.
        equal: Whether all clients have the same change of a row or a dense parameter, and the same
            weight.
        params: The shared parameters; tables are those of as many rows as there are items.
    """
    rng, n = np.random.default_rng(seed), len(rows)
    ids = np.array([item for row in rows for item in row], np.int64)
    offsets = offsets_of(np.array([len(row) for row in rows], np.int64))

    def drawn(value: FloatArray, owners: IntArray | None) -> FloatArray:
        common = rng.standard_normal(value.shape)
        values = np.stack([common] * n) if owners is None else common[owners]
        values = values if equal else rng.standard_normal(values.shape)
        return np.asarray(np.round(values * 2.0**12) * 2.0**-12, np.float32)

    tables, dense = {}, {}
    for name, value in params.items():
        if value.shape[:1] == (N_ITEMS,):
            tables[name] = RowBlock(offsets, ids, drawn(value, ids))
        else:
            dense[name] = drawn(value, None)
    weight = np.full(n, 4.0) if equal else rng.integers(1, 9, n).astype(np.float64)
    metrics = {name: np.ones(n) if equal else 3 * rng.random(n) for name in ("loss", *MEASURES)}
    clients = np.arange(n, dtype=np.int64)
    return UpdateBatch(1, clients, weight, tables, dense, {**metrics, "examples": weight})


def joint_change(
    aggregation: Part, rounds: Sequence[Sequence[UpdateBatch]], params: Params = PARAMS
) -> tuple[State, list[Params]]:
    """Return the state after some rounds, and the joint change of each.

    Args:
        aggregation: The aggregation.
        rounds: Of each round, the updates of the clients of each node, merged in that order.
        params: The shared parameters, which stay.
    """
    clients = max(int(batch.client_ids.max()) for nodes in rounds for batch in nodes) + 1
    state = aggregation.init(params, RoundContext(0, 0, clients, N_ITEMS))
    changes = []
    for number, nodes in enumerate(rounds, 1):
        cohort = np.sort(np.concatenate([batch.client_ids for batch in nodes]))
        aggregate = aggregation.reduce(nodes[0])
        for batch in nodes[1:]:
            aggregate = merge(aggregate, aggregation.reduce(batch))
        context = RoundContext(0, number, clients, N_ITEMS, cohort)
        state, change = aggregation.change(state, params, aggregate, context)
        changes.append(change)
    return state, changes


def _rounds() -> list[UpdateBatch]:
    """Return two rounds of clients that change all but the last item, each some of them."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, N_ITEMS, CLIENTS)
    rows = [np.sort(rng.permutation(N_ITEMS - 1)[:size]).tolist() for size in sizes]
    rows[0] = list(range(N_ITEMS - 1))
    return [updates(rows, 1), updates(rows, 2)]


def changes_have_the_form_of_parameters(aggregation: Part) -> None:
    """Return a finite float64 change of each shared parameter, 0 for rows that nobody touched."""
    _, changes = joint_change(aggregation, [[batch] for batch in _rounds()])
    for change in changes:
        require(change.keys() == PARAMS.keys(), f"change: {[*change]}, expected {[*PARAMS]}")
        for name, value in change.items():
            form, expected = (value.dtype.name, value.shape), ("float64", PARAMS[name].shape)
            require(form == expected, f"the change of '{name}' is {form}, expected {expected}")
            require(np.isfinite(value).all(), f"the change of '{name}' is not finite")
        for name in ("item", "bias"):
            require(not change[name][-1].any(), f"'{name}': a row moves that nobody touched")


def clients_may_be_dealt_to_any_nodes(aggregation: Part) -> None:
    """Join updates alike whichever nodes sum them, and in whatever order clients stand."""
    rounds, rng = _rounds(), np.random.default_rng(0)
    expected = as_bytes(joint_change(aggregation, [[batch] for batch in rounds]))
    for cuts in ([], [4], [1, 2, 7]):
        nodes = np.split(rng.permutation(CLIENTS), cuts)
        dealt = [[batch.take(clients) for clients in nodes] for batch in rounds]
        same = as_bytes(joint_change(aggregation, dealt)) == expected
        require(same, f"on {len(nodes)} nodes the change has other bits")


def weights_are_relative(aggregation: Part) -> None:
    """Join updates alike, to rounding, where all clients have three times the weight."""
    rounds = _rounds()
    _, expected = joint_change(aggregation, [[batch] for batch in rounds])
    heavier = [[replace(batch, weight=3 * batch.weight)] for batch in rounds]
    _, changes = joint_change(aggregation, heavier)
    for one, other in zip(expected, changes, strict=True):
        for name, value in one.items():
            same = np.allclose(other[name], value, rtol=1e-6, atol=1e-7)
            require(same, f"with three times the weights the change of '{name}' is another")


def equal_changes_keep_their_direction(aggregation: Part) -> None:
    """Change a row that all clients change alike in that direction, or not at all."""
    batch = updates([[0, 1, 2]] * CLIENTS, 0, equal=True)
    _, (change,) = joint_change(aggregation, [[batch]])
    for name, block in batch.tables.items():
        for item in range(3):
            expected, came = block.values[item].ravel(), change[name][item].ravel()
            share = (came @ expected) / (expected @ expected)
            same = share >= 0 and np.allclose(came, share * expected, rtol=1e-5, atol=1e-7)
            require(same, f"'{name}': all change a row by {expected}, and it changes by {came}")


def aggregating_changes_no_argument(aggregation: Part) -> None:
    """Change no argument while reducing and joining updates."""
    (batch, _), context = _rounds(), RoundContext(0, 1, CLIENTS, N_ITEMS)
    state = aggregation.init(PARAMS, context)
    arguments = [batch, state, PARAMS, aggregation.reduce(batch)]
    before = as_bytes(arguments)
    aggregation.change(state, PARAMS, arguments[-1], context)
    require(as_bytes(arguments) == before, "reduce or change changes its arguments")


def _stepped(optimizer: Part, changes: Sequence[Params], touched: IntArray) -> tuple[State, Params]:
    state, params = optimizer.init(PARAMS), PARAMS
    for change in changes:
        rows = dict.fromkeys(("item", "bias"), touched)
        state, params = optimizer.step(state, params, change, rows)
    return state, params


def _drawn(seed: int) -> Params:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(value.shape) for name, value in PARAMS.items()}


def steps_keep_the_form_of_parameters(optimizer: Part) -> None:
    """Step to finite float32 parameters of the same names and shapes; change no argument."""
    changes = [_drawn(0), _drawn(1)]
    before = as_bytes([changes, PARAMS])
    _, params = _stepped(optimizer, changes, np.arange(N_ITEMS))
    require(as_bytes([changes, PARAMS]) == before, "step changes its arguments")
    forms = {name: (value.dtype.name, value.shape) for name, value in params.items()}
    expected = {name: ("float32", value.shape) for name, value in PARAMS.items()}
    require(forms == expected, f"the parameters are {forms}, expected {expected}")
    finite = all(np.isfinite(value).all() for value in params.values())
    require(finite, "a parameter is not finite")


def without_change_nothing_moves(optimizer: Part) -> None:
    """Leave parameters as they are in rounds without change, before there was any."""
    still = {name: np.zeros(value.shape) for name, value in PARAMS.items()}
    _, params = _stepped(optimizer, [still, still], np.arange(N_ITEMS))
    require(as_bytes(params) == as_bytes(PARAMS), "parameters move without any change")


def lazy_moments_are_dense_ones(optimizer: Part) -> None:
    """Step alike with lazy and with dense moments where every row is touched."""
    changes = [_drawn(seed) for seed in range(3)]
    lazy, dense = (
        _stepped(optimizer.model_copy(update={"moments": moments}), changes, np.arange(N_ITEMS))[1]
        for moments in ("lazy", "dense")
    )
    require(as_bytes(lazy) == as_bytes(dense), "lazy moments step otherwise than dense ones")


def lazy_rows_stay(optimizer: Part) -> None:
    """Leave rows as they are, with lazy moments, in rounds in which nobody touches them."""
    lazy = optimizer.model_copy(update={"moments": "lazy"})
    still = {name: np.zeros(value.shape) for name, value in PARAMS.items()}
    for name in ("item", "bias"):
        still[name][0] = 1.0
    _, before = _stepped(lazy, [_drawn(0)], np.arange(N_ITEMS))
    state, _ = _stepped(lazy, [_drawn(0)], np.arange(N_ITEMS))
    rows = dict.fromkeys(("item", "bias"), np.zeros(1, np.int64))
    _, after = lazy.step(state, before, still, rows)
    for name in rows:
        stays = np.array_equal(after[name][1:], before[name][1:])
        require(stays, f"'{name}': rows move that nobody touched")


AGGREGATION_CONTRACTS: tuple[Callable[[Part], None], ...] = (
    changes_have_the_form_of_parameters,
    clients_may_be_dealt_to_any_nodes,
    weights_are_relative,
    equal_changes_keep_their_direction,
    aggregating_changes_no_argument,
)
OPTIMIZER_CONTRACTS: tuple[Callable[[Part], None], ...] = (
    steps_keep_the_form_of_parameters,
    without_change_nothing_moves,
    lazy_moments_are_dense_ones,
    lazy_rows_stay,
)


def contracts_of_part(plugin: Part) -> Sequence[Callable[[Part], None]]:
    """Return the contracts of an aggregation or a server optimizer; none for anything else."""
    if hasattr(plugin, "change") and hasattr(plugin, "reduce"):
        return AGGREGATION_CONTRACTS
    return OPTIMIZER_CONTRACTS if hasattr(plugin, "direction") else ()
