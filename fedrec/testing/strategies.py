"""Contracts of strategies: how updates are summed and applied."""

import json
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np

from fedrec.storage.files import read_arrays, write_arrays
from fedrec.testing.trial import Trial, as_bytes, require
from fedrec.training.clients import train_clients
from fedrec.types import Aggregate, IntArray, Params, State

__all__ = ["STRATEGY_CONTRACTS"]

Strategy: TypeAlias = Any  # a `strategies.Strategy`, which this package may not import

CLIENTS = np.arange(10)


def nodes_host_any_clients(strategy: Strategy) -> None:
    """Sum alike whichever nodes host which clients, and in whatever order they answer."""
    expected = as_bytes(_play(strategy, [CLIENTS]))
    for cuts in ([5], [1, 2, 6]):
        nodes = np.split(np.random.default_rng(0).permutation(CLIENTS), cuts)
        came = as_bytes(_play(strategy, nodes))
        require(came == expected, f"on {len(nodes)} nodes the result has other bits")


def parameters_keep_their_form(strategy: Strategy) -> None:
    """Return parameters with their names and shapes, float32 and finite."""
    trial, (state, after) = Trial.of(strategy), _play(strategy, [CLIENTS])
    groups = strategy.groups(state, CLIENTS)
    are_numbers = groups.shape == CLIENTS.shape and groups.dtype.kind in "iu" and groups.min() >= 0
    require(are_numbers, f"groups returned {groups}, expected a number from 0 for each client")
    shared = trial.task.initial_globals(trial.shard.n_items)
    returned = [("apply", after, shared)]
    for group in np.unique(groups).tolist():
        returned += [("broadcast", strategy.broadcast(state, after, group), trial.params)]
    for call, came, like in returned:
        forms = {name: (np.asarray(v).dtype.name, np.shape(v)) for name, v in came.items()}
        expected = {name: ("float32", value.shape) for name, value in like.items()}
        require(forms == expected, f"{call} returned {forms}, expected {expected}")
        require(all(np.isfinite(v).all() for v in came.values()), f"{call}: is not finite")


def a_checkpoint_keeps_the_state(strategy: Strategy) -> None:
    """Go on from a checkpoint with the same bits."""

    def through_a_file(state: State) -> State:
        with TemporaryDirectory() as folder:
            path, text = Path(folder) / "checkpoint", json.dumps(dict(state.values))
            write_arrays(path, dict(state.arrays), {"values": text})
            arrays, texts = read_arrays(path)
        return State(arrays, json.loads(texts["values"]))

    came = as_bytes(_play(strategy, [CLIENTS], through_a_file))
    require(came == as_bytes(_play(strategy, [CLIENTS])), "after it the result has other bits")


def applying_changes_no_argument(strategy: Strategy) -> None:
    """Change no argument while reducing, merging and applying."""
    trial, (state, params) = Trial.of(strategy), _play(strategy, [CLIENTS])
    update, _ = train_clients(trial.task, trial.shard, trial.params, trial.private, 1)
    arguments = [update, state, params, strategy.reduce(update), strategy.reduce(update)]
    before = as_bytes(arguments)
    strategy.reduce(update)
    strategy.merge(*arguments[-2:])
    strategy.apply_groups(state, params, {strategy.groups(state, CLIENTS[:1])[0]: arguments[-1]})
    require(as_bytes(arguments) == before, "reduce, merge or apply changes its arguments")


STRATEGY_CONTRACTS = (
    parameters_keep_their_form,
    nodes_host_any_clients,
    a_checkpoint_keeps_the_state,
    applying_changes_no_argument,
)


def _play(
    strategy: Strategy,
    nodes: Sequence[IntArray],
    keep: Callable[[State], State] | None = None,
) -> tuple[State, Params]:
    """Return the state and the parameters after two rounds, as the server makes them.

    Args:
        strategy: The strategy.
        nodes: Per node, int64 [c], the clients that it hosts; the answers are merged in order.
        keep: Is called with the state after each round.
    """
    trial = Trial.of(strategy)
    params = trial.task.initial_globals(trial.shard.n_items)
    state = strategy.init(params, len(CLIENTS))
    for number in (1, 2):
        answers: dict[int, list[Aggregate]] = {}
        for clients in nodes:
            groups = strategy.groups(state, clients)
            for group in np.unique(groups).tolist():
                some = trial.take(clients[groups == group])
                sent = strategy.broadcast(state, params, group)
                update, _ = train_clients(trial.task, some.shard, sent, some.private, number)
                answers.setdefault(group, []).append(strategy.reduce(update))
        merged = {group: reduce(strategy.merge, each) for group, each in answers.items()}
        state, params = strategy.apply_groups(state, params, merged)
        state = state if keep is None else keep(state)
    return state, params
