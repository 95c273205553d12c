"""Where client rules are one another, or centralised training; what their memories add up to."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.models.sasrec import SASRec
from fedrec.personalization.base import Personalization, Phase
from fedrec.training.client_rule import SEEN_ITEMS
from fedrec.training.draws import Layout
from fedrec.types import FloatArray, IntArray, ParamSpec, Shard
from strategies import Composed, FedAvg, FedDyn, FedNova, FedProx, Scaffold, Strategy
from tests.contracts.own_models import BiasedMF
from tests.planted import federations, rates, shard_of
from tests.quadratic import Federation

TRAIN: dict[str, Any] = {"local_epochs": 2, "negatives": 1, "optimizers": rates(0.1)}
COHORT: dict[str, Any] = {"aggregation": {"average": "cohort"}}
WITH_MEMORY = pytest.mark.parametrize(
    "strategy", [Scaffold(), FedDyn(client_rule={"alpha": 0.5})], ids=["scaffold", "feddyn"]
)

EVERY_RULE = [
    FedAvg(),
    FedDyn(client_rule={"alpha": 0.5}),
    FedNova(),
    FedProx(client_rule={"mu": 0.5}),
    Scaffold(),
]


def after_a_round(strategy: Strategy, shard: Shard, **train: Any) -> Federation:
    federation = Federation.of(strategy, {**TRAIN, **train}, shard, BiasedMF())
    federation.step()
    return federation


def same_params(one: Federation, other: Federation) -> None:
    for name, value in one.params.items():
        np.testing.assert_allclose(value, other.params[name], atol=1e-6, err_msg=name)


@settings(max_examples=8, deadline=None)
@given(
    shard=federations(several=True),
    weighting=st.sampled_from(["uniform", "examples"]),
)
def test_with_equal_steps_fednova_is_federated_averaging(shard: Shard, weighting: str) -> None:
    aggregation = {"aggregation": {"average": "cohort", "weighting": weighting}}
    kinds = (FedNova, FedAvg)
    same_params(*(after_a_round(kind.model_validate(aggregation), shard) for kind in kinds))


@settings(max_examples=8, deadline=None)
@given(shard=federations(several=True), batch_size=st.sampled_from(["full", 2]))
def test_the_first_round_of_scaffold_is_federated_averaging(
    shard: Shard, batch_size: int | str
) -> None:
    strategies = (Scaffold(), FedAvg.model_validate(COHORT))
    same_params(*(after_a_round(each, shard, batch_size=batch_size) for each in strategies))


@pytest.mark.parametrize(("alpha", "epochs"), [(0.5, 1), (1e-9, 2)], ids=["one step", "no alpha"])
@settings(max_examples=8, deadline=None)
@given(shard=federations(several=True))
def test_the_first_round_of_feddyn_is_that_of_federated_averaging_twice(
    alpha: float, epochs: int, shard: Shard
) -> None:
    """Its term is 0, or vanishes with alpha; the mean of what clients accumulate is added.

    Where all take part that is their mean change once more; of an item table, on their train
    items. So federated averaging is no limit of the rule, whatever alpha.
    """
    strategies = (FedDyn(client_rule={"alpha": alpha}), FedAvg.model_validate(COHORT))
    dynamic, plain = (after_a_round(each, shard, local_epochs=epochs) for each in strategies)
    start = dynamic.task.initial_globals(shard.n_items)
    added = {name: dynamic.params[name] - value for name, value in plain.params.items()}
    change = plain.params["constant"] - start["constant"]
    np.testing.assert_allclose(added["constant"], change, atol=1e-6)
    others = np.setdiff1d(np.arange(shard.n_items), shard.train.values)
    np.testing.assert_allclose(added["item"][others], 0, atol=1e-6)
    accumulated = memories(dynamic, "accumulated")["item"].mean(0)
    np.testing.assert_allclose(added["item"], accumulated, atol=1e-6)


@pytest.mark.parametrize(
    "strategy",
    [FedAvg(), FedNova(), Scaffold()],
    ids=lambda strategy: type(strategy).__name__,
)
def test_a_single_client_trains_as_if_centralised(strategy: Strategy) -> None:
    """Rounds of its steps are that many steps of gradient descent, whatever the batches."""
    federation = Federation.of(strategy, {**TRAIN, "batch_size": 1}, shard_of(5, [[0, 2, 3]]))
    curvature, minimum = federation.curvatures(False), federation.private["minimum"][0]
    distance = -minimum
    for _ in range(4):
        federation.step()
        distance = distance * (1 - 0.1 * curvature[0]) ** 6
        np.testing.assert_allclose(federation.params["level"], minimum + distance, atol=1e-6)


class InTurns(Personalization):
    """The item table, and then what is dense, with epochs of their own; nothing is private."""

    def phases(self, specs: Mapping[str, ParamSpec], copies: Collection[str]) -> tuple[Phase, ...]:
        return Phase(("item",), epochs=2), Phase(("level",), epochs=3)


@pytest.mark.parametrize("strategy", EVERY_RULE, ids=lambda strategy: type(strategy).__name__)
def test_phases_train_each_parameter_as_if_alone(strategy: Strategy) -> None:
    """The quadratic losses know no products of table and level; each counts its own steps."""
    in_turns = Federation.of(strategy, TRAIN, personalization=InTurns())
    alone = {
        name: Federation.of(strategy, {**TRAIN, "local_epochs": epochs})
        for name, epochs in (("item", 2), ("level", 3))
    }
    rng = np.random.default_rng(0)
    for _ in range(4):
        cohort = np.sort(rng.choice(4, 3, replace=False))
        for federation in (in_turns, *alone.values()):
            federation.step(cohort)
    for name, federation in alone.items():
        np.testing.assert_allclose(in_turns.params[name], federation.params[name], atol=1e-6)


# Memories ------------------------------------------------------------------------------------


def memories(federation: Federation, kind: str) -> dict[str, FloatArray]:
    """What each client remembers of every shared parameter, whole tables, float64 [c, *shape]."""
    task, shard = federation.task, federation.shard
    layout = Layout.of(task, shard)
    dense = {}
    for name, value in federation.params.items():
        remembered = federation.private[f"{name}/{kind}"]
        if name not in task.tables():
            dense[name] = remembered
            continue
        axis = "seen_item" if SEEN_ITEMS in federation.private else "positive"
        offsets = layout.offsets[axis]
        clients = np.repeat(np.arange(shard.n_clients), np.diff(offsets))
        items = federation.private.get(SEEN_ITEMS, layout.positives.values)
        used = items >= 0
        dense[name] = np.zeros((shard.n_clients, *value.shape))
        dense[name][clients[used], items[used]] = remembered[used]
    return dense


@st.composite
def rounds_of(draw: st.DrawFn, shard: Shard) -> list[IntArray]:
    """Cohorts of four rounds; some clients stay away for long."""
    clients = st.sets(st.integers(0, shard.n_clients - 1), min_size=1)
    return [np.array(sorted(draw(clients)), np.int64) for _ in range(4)]


@WITH_MEMORY
@settings(max_examples=8, deadline=None)
@given(data=st.data(), shard=federations(several=True), batch_size=st.sampled_from(["full", 2]))
def test_the_server_holds_the_mean_of_what_clients_remember(
    strategy: Composed, data: st.DataObject, shard: Shard, batch_size: int | str
) -> None:
    """Also of those who stay away, who keep theirs; and on any number of nodes, to the bit."""
    federation, on_three = (
        Federation.of(strategy, {**TRAIN, "batch_size": batch_size}, shard, BiasedMF())
        for _ in range(2)
    )
    kind = strategy.client_rule.memory[0]
    for cohort in data.draw(rounds_of(shard)):
        before = memories(federation, kind)
        federation.step(cohort)
        on_three.step(cohort, nodes=min(3, len(cohort)))
        absent = np.setdiff1d(np.arange(shard.n_clients), cohort)
        for name, values in memories(federation, kind).items():
            held = federation.state.arrays[f"client_rule/{name}"]
            np.testing.assert_allclose(held, values.sum(0) / shard.n_clients, atol=1e-6)
            assert values[absent].tobytes() == before[name][absent].tobytes()
        for one, other in (
            (federation.params, on_three.params),
            (federation.state.arrays, on_three.state.arrays),
            (federation.private, on_three.private),
        ):
            assert {n: v.tobytes() for n, v in one.items()} == {
                n: v.tobytes() for n, v in other.items()
            }


@WITH_MEMORY
def test_the_same_of_a_model_with_a_window(strategy: Composed) -> None:
    """A model with a window trains on the latest items alone; places of memory are of all."""
    shard = shard_of(12, [[0, 1, 2, 3, 4, 5], [1, 3], [2, 4, 6, 8, 10]])
    model = SASRec(embedding_dim=2, max_len=3, blocks=1)
    federation, kind = Federation.of(strategy, TRAIN, shard, model), strategy.client_rule.memory[0]
    for cohort in (np.arange(3), np.array([0, 2]), np.array([1, 2])):
        federation.step(cohort)
        for name, values in memories(federation, kind).items():
            held = federation.state.arrays[f"client_rule/{name}"]
            np.testing.assert_allclose(held, values.sum(0) / 3, atol=1e-6, err_msg=name)
