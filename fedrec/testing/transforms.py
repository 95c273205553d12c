"""What transforms, attacks and selections must keep."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias
from unittest import SkipTest

import numpy as np

from fedrec.aggregation.reduce import joined
from fedrec.aggregation.returned import checked_choice, checked_state
from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.testing.trial import Trial, as_bytes, require, small_split
from fedrec.training.draws import Layout, positives_of_clients
from fedrec.training.task import ClientTask
from fedrec.transforms.attacks.base import Attack
from fedrec.transforms.base import Transform
from fedrec.transforms.data import changed_data
from fedrec.transforms.pipeline import memory_specs, transformed
from fedrec.types import IntArray, Params, Shard, Split, State

Selection: TypeAlias = Any
"""A `strategies.selections.base.Selection`, whose package is above this one."""

TARGETS = np.array([3, 17])


def _context(split: Split, round: int = 1) -> RoundContext:
    n = split.n_clients
    return RoundContext(0, round, n, split.n_items, np.arange(n, dtype=np.int64), TARGETS)


def _on_node() -> RoundContext:
    return replace(_context(small_split()), members=None)


def _memory(transform: Transform, task: ClientTask, shard: Shard) -> dict[str, Any]:
    """Return a transform's memory of some clients, drawn by client and place."""
    owners = {"client": shard.client_ids, "positive": Layout.of(task, shard).positives.values}
    memory = {}
    for name, spec in memory_specs([transform], task.shared_specs()).items():
        drawn = np.sin(1.0 + owners[str(spec.axis)]).astype(np.float32)
        rows = drawn.reshape(-1, *[1] * len(spec.shape))
        memory[name] = np.tile(rows, (1, *spec.shape))
    return memory


def _sent(transform: Transform, clients: IntArray | None = None) -> tuple[UpdateBatch, Params]:
    """Return what some clients of a small federation send, and remember; None: all of them."""
    trial = Trial.of(transform)
    update, _ = trial.train(1)
    rows = np.arange(trial.shard.n_clients) if clients is None else clients
    shard, context = trial.shard.take(rows), _on_node()
    memory = _memory(transform, trial.task, shard)
    sent, after = transformed(
        [transform], update.take(rows), memory, positives_of_clients(shard), context
    )
    return sent.decoded(), after


def clients_are_transformed_as_if_alone(transform: Transform) -> None:
    """Transform a client alike in any company and any order."""
    if not transform.sees_updates:
        raise SkipTest("it sees no updates of clients")
    together, _ = _sent(transform)
    rows = np.arange(len(together.client_ids))
    alone = joined([_sent(transform, rows[[row]])[0] for row in rows])
    require(as_bytes(alone) == as_bytes(together), "a client alone sends other bits")
    backwards = _sent(transform, rows[::-1].copy())[0].take(rows[::-1].copy())
    require(as_bytes(backwards) == as_bytes(together), "in another order clients send other bits")


def the_same_round_is_transformed_alike(transform: Transform) -> None:
    """Send and remember the same in the same round, and change no argument."""
    if not transform.sees_updates:
        raise SkipTest("it sees no updates of clients")
    trial = Trial.of(transform)
    update, _ = trial.train(1)
    memory = _memory(transform, trial.task, trial.shard)
    arguments = update, memory, positives_of_clients(trial.shard), _on_node()
    before = as_bytes([update, memory])
    first = as_bytes(transformed([transform], *arguments))
    require(as_bytes([update, memory]) == before, "it changes its arguments")
    again = as_bytes(transformed([transform], *arguments))
    require(again == first, "the second time the result has other bits")


def _attacked(attack: Attack) -> tuple[Split, IntArray]:
    """Return a small federation as an attack leaves it, and its attackers."""
    split = changed_data(attack, small_split(), _context(small_split(), 0))
    return split, attack.attackers_in(split, 0)


def attackers_are_some_of_the_clients(attack: Attack) -> None:
    """Name some of the clients, not all, sorted, the same in every round."""
    split, attackers = _attacked(attack)
    later = attack.attackers(_context(split, 5))
    require(np.array_equal(later, attackers), f"attackers: {later} in round 5, {attackers} before")


def the_same_round_is_attacked_alike(attack: Attack) -> None:
    """Send the same in the same round, for the same clients, and change no argument."""
    trial = Trial.of(attack)
    pool, _ = trial.train(1)
    split = small_split()
    context, state = _context(split), attack.init(split, _context(split, 0))
    before = as_bytes([state, pool, trial.params])
    first = as_bytes(attack.sent(state, pool, trial.params, context))
    require(as_bytes([state, pool, trial.params]) == before, "rewrite changes its arguments")
    again = as_bytes(attack.sent(state, pool, trial.params, context))
    require(again == first, "the second time the result has other bits")


def choices_are_clients(selection: Selection) -> None:
    """Choose clients of the run, sorted, the same in the same round with the same state."""
    split = small_split()
    everybody = np.arange(split.n_clients, dtype=np.int64)
    examples = np.diff(split.train.offsets[split.clients.offsets]).astype(np.int64)
    state: State = selection.init(examples, _context(split, 0))
    for round in range(1, 6):
        context = _context(split, round)
        chosen = checked_choice(selection, state, 4, context)
        again = checked_choice(selection, state, 4, context)
        require(np.array_equal(again, chosen), "choose: the second time it chooses others")
        if "loss" in selection.needs and len(chosen):
            learned = selection.learned(state, chosen, np.sin(everybody[chosen] + 1.0), context)
            state = checked_state(selection, "learned", learned, context)


TRANSFORM_CONTRACTS: tuple[Callable[[Any], None], ...] = (
    clients_are_transformed_as_if_alone,
    the_same_round_is_transformed_alike,
)
ATTACK_CONTRACTS: tuple[Callable[[Any], None], ...] = (
    attackers_are_some_of_the_clients,
    the_same_round_is_attacked_alike,
)
