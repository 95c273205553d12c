"""Selections: exact probabilities, and that a choice depends on seed, round and state alone."""

from collections import Counter
from itertools import permutations
from math import comb, prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedrec.aggregation.returned import checked_choice, checked_state
from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError
from fedrec.testing.trial import as_bytes
from fedrec.types import IntArray, State
from strategies.selections import SELECTIONS, Activity, Loss, Poisson, Selection
from strategies.selections.uniform import cohort

ROUNDS = 4000


def context(round: int, n: int, seed: int = 0) -> RoundContext:
    return RoundContext(seed, round, n, 10)


def chosen(selection: Selection, state: State, n: int, size: int) -> Counter[tuple[int, ...]]:
    """How often each set of clients is chosen."""
    rounds = (checked_choice(selection, state, size, context(r, n)) for r in range(ROUNDS))
    return Counter(tuple(clients.tolist()) for clients in rounds)


def fits(counts: Counter[tuple[int, ...]], probability: dict[tuple[int, ...], float]) -> bool:
    assert set(counts) <= set(probability)
    expected = [ROUNDS * p for p in probability.values()]
    return bool(stats.chisquare([counts[each] for each in probability], expected).pvalue > 0.001)


@pytest.mark.parametrize("name", sorted(SELECTIONS))
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), round=st.integers(1, 10**6), data=st.data())
def test_the_choice_is_a_function_of_seed_round_and_state(
    name: str, seed: int, round: int, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, 60))
    size = data.draw(st.integers(1, n))
    activity = st.lists(st.integers(0, 9), min_size=n, max_size=n)
    examples = np.array(data.draw(activity), np.int64)
    selection, now = SELECTIONS[name](), context(round, n, seed)
    state = checked_state(selection, "init", selection.init(examples, now), now)
    before = as_bytes(state)
    clients = checked_choice(selection, state, size, now)
    if name != "poisson":
        assert len(clients) == size
    assert as_bytes(SELECTIONS[name]().choose(state, size, now)) == as_bytes(clients)
    after = selection.learned(state, clients, np.arange(len(clients)) / 2, now)
    checked_state(selection, "learned", after, now)
    assert as_bytes(state) == before


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_activity_draws_one_after_the_other_by_weight(alpha: float) -> None:
    examples, size = np.array([1, 2, 3, 8], np.int64), 2
    weight = (examples**alpha).tolist()
    probability: dict[tuple[int, ...], float] = {}
    for order in permutations(range(4), size):
        left = [sum(weight) - sum(weight[k] for k in order[:place]) for place in range(size)]
        p = prod(weight[k] / total for k, total in zip(order, left, strict=True))
        key = tuple(sorted(order))
        probability[key] = probability.get(key, 0.0) + p
    selection = Activity(alpha=alpha)
    state = selection.init(examples, context(0, 4))
    assert fits(chosen(selection, state, 4, size), probability)


def test_a_large_power_takes_the_most_active() -> None:
    selection, now = Activity(alpha=1e6), context(1, 99)
    state = selection.init(np.arange(99), now)
    assert selection.choose(state, 5, now).tolist() == [94, 95, 96, 97, 98]


def test_clients_without_items_come_last_and_are_as_likely() -> None:
    selection = Activity()
    state = selection.init(np.array([0, 5, 0, 1, 0], np.int64), context(0, 5))
    counts = chosen(selection, state, 5, 3)
    assert fits(counts, {(0, 1, 3): 1 / 3, (1, 2, 3): 1 / 3, (1, 3, 4): 1 / 3})


def test_poisson_clients_decide_by_themselves() -> None:
    """With probability 1/3, so that each set has its own, the empty one too."""
    n, q = 6, 1 / 3
    sets = [tuple(k for k in range(n) if bits >> k & 1) for bits in range(2**n)]
    probability = {each: q ** len(each) * (1 - q) ** (n - len(each)) for each in sets}
    assert fits(chosen(Poisson(), State(), n, 2), probability)


def test_of_candidates_the_highest_loss_is_taken() -> None:
    """The client of rank r is the highest of d random ones in C(n - r, d - 1) of C(n, d) cases."""
    n, d = 8, 3
    selection = Loss(candidates=d)
    state = State({"loss": np.arange(n, 0, -1.0)})
    ranks = range(1, n - d + 2)
    probability: dict[tuple[int, ...], float] = {
        (r - 1,): comb(n - r, d - 1) / comb(n, d) for r in ranks
    }
    assert fits(chosen(selection, state, n, 1), probability)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), round=st.integers(1, 1000))
def test_clients_never_seen_come_before_all_others(data: st.DataObject, round: int) -> None:
    n = data.draw(st.integers(2, 30))
    size = data.draw(st.integers(1, n))
    candidates = data.draw(st.integers(size, n))
    selection, now = Loss(candidates=candidates), context(round, n)
    seen: IntArray = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1)))), np.int64)
    losses = np.array([data.draw(st.floats(0, 100)) for _ in seen])
    state = selection.learned(selection.init(np.zeros(0, np.int64), now), seen, losses, now)
    last = np.full(n, np.inf)
    last[seen] = losses
    drawn = cohort(0, round, n, candidates)
    clients = checked_choice(selection, state, size, now)
    left = np.setdiff1d(drawn, clients)
    assert set(clients) <= set(drawn)
    assert last[clients].min() >= last[left].max(initial=-1)


class Says(Selection):
    """Chooses what it is told."""

    def __init__(self, clients: Any) -> None:
        super().__init__()
        self._clients = clients

    def choose(self, state: State, size: int, context: RoundContext) -> Any:
        return self._clients


@pytest.mark.parametrize(
    "clients",
    [None, [0, 1], np.array([1, 0]), np.array([0, 0]), np.array([-1]), np.array([5]), np.eye(2)],
)
def test_a_wrong_choice_is_named(clients: Any) -> None:
    said = (
        r"round 3, selection .*Says: choose returned .*, expected sorted whole numbers .* below 5"
    )
    with pytest.raises(ConfigError, match=said):
        checked_choice(Says(clients), State(), 2, context(3, 5))


def test_a_need_that_nobody_can_meet_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected needs = a tuple of examples, loss"):

        class Nosy(Selection):
            needs = ("ratings",)
