"""Contracts of strategies: how updates are summed and applied."""

from collections.abc import Sequence
from functools import reduce

import numpy as np

from fedrec.aggregation.returned import (
    Strategy,
    checked_apply,
    checked_broadcast,
    checked_groups,
    checked_init,
)
from fedrec.testing.trial import Trial, as_bytes, require
from fedrec.training.clients import train_clients
from fedrec.types import Aggregate, IntArray, Params, State

__all__ = ["STRATEGY_CONTRACTS"]

CLIENTS = np.arange(10)


def parameters_keep_their_form(strategy: Strategy) -> None:
    """Return a state for files, and parameters of their names and shapes, float32 and finite."""
    state, params = _play(strategy, [CLIENTS])
    for group in np.unique(checked_groups(strategy, state, CLIENTS)).tolist():
        checked_broadcast(strategy, state, params, group)


def nodes_host_any_clients(strategy: Strategy) -> None:
    """Sum alike whichever nodes host which clients, and in whatever order they answer."""
    expected = as_bytes(_play(strategy, [CLIENTS]))
    for cuts in ([5], [1, 2, 6]):
        nodes = np.split(np.random.default_rng(0).permutation(CLIENTS), cuts)
        result = as_bytes(_play(strategy, nodes))
        require(result == expected, f"on {len(nodes)} nodes the result has other bits")


def a_checkpoint_keeps_the_state(strategy: Strategy) -> None:
    """Go on with the same bits where settings, state and parameters are all that is left."""
    resumed = as_bytes(_play(strategy, [CLIENTS], resumed=True))
    same = resumed == as_bytes(_play(strategy, [CLIENTS]))
    require(same, "a new instance goes on with other bits; keep what must last in the State")


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
    strategy: Strategy, nodes: Sequence[IntArray], resumed: bool = False
) -> tuple[State, Params]:
    """Return the state and the parameters after two rounds, as the server makes them.

    Args:
        strategy: The strategy.
        nodes: Per node, int64 [c], the clients that it hosts; the answers are merged in order.
        resumed: Whether each round has a new instance of the strategy, as after a stop.
    """
    trial = Trial.of(strategy)
    params = trial.task.initial_globals(trial.shard.n_items)
    state = checked_init(strategy, params, len(CLIENTS))
    for number in (1, 2):
        answers: dict[int, list[Aggregate]] = {}
        for clients in nodes:
            groups = checked_groups(strategy, state, clients)
            for group in np.unique(groups).tolist():
                some = trial.take(clients[groups == group])
                sent = checked_broadcast(strategy, state, params, group)
                update, _ = train_clients(trial.task, some.shard, sent, some.private, number)
                answers.setdefault(group, []).append(strategy.reduce(update))
        merged = {group: reduce(strategy.merge, each) for group, each in answers.items()}
        state, params = checked_apply(strategy, state, params, merged, number)
        strategy = type(strategy)(**dict(strategy)) if resumed else strategy
    return state, params
