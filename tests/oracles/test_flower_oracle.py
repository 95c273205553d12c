"""Presets against Flower's strategies of the same names, where all clients change everything.

Where they differ: Flower's FedAdam corrects the step (ours the moments, which is the same but for
tau) as if there had been one more round before the first; its TrimmedAvg leaves out nobody among
few clients; its Krum and Multi-Krum measure distances between whole models, and weight what they
select; its Bulyan scores clients once; its QFedAvg has no floor of the loss. FedAvgM's own copy of
the parameters matters only to whoever changes them from outside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.flower.grid import claim_identity
from fedrec.testing.strategies import N_ITEMS, PARAMS, updates
from fedrec.types import FloatArray, Params
from strategies import STRATEGIES

HEAD: dict[str, FloatArray] = {name: PARAMS[name] for name in ("head", "constant")}
SEEDS = st.integers(0, 999)
CLIENTS = st.integers(1, 9)


def ours(name: str, options: Mapping[str, Any], rounds: Sequence[UpdateBatch]) -> list[Params]:
    """The parameters after each round."""
    strategy, params = STRATEGIES[name].model_validate(options), PARAMS
    if not rounds[0].tables:
        params = HEAD
    n, after = len(rounds[0].client_ids), list[Params]()
    state = strategy.init(params, RoundContext(0, 0, n, N_ITEMS))
    for number, batch in enumerate(rounds, 1):
        context = RoundContext(0, number, n, N_ITEMS, batch.client_ids)
        state, params = strategy.apply(state, params, {0: strategy.reduce(batch)}, context)
        after.append(params)
    return after


def flowers(strategy: Any, rounds: Sequence[UpdateBatch]) -> list[Params]:
    """What Flower's strategy makes of the models of the clients in each round, in float64."""
    claim_identity()
    start = PARAMS if rounds[0].tables else HEAD
    params: Params = {name: value.astype(np.float64) for name, value in start.items()}
    after = list[Params]()
    for number, batch in enumerate(rounds, 1):
        sent = ArrayRecord({name: Array(value) for name, value in params.items()})
        assert list(strategy.configure_train(number, sent, ConfigRecord(), None)) == []
        replies = []
        for client in range(len(batch.client_ids)):
            change = {name: values[client] for name, values in batch.dense.items()}
            change |= {
                name: block.values.reshape(-1, *params[name].shape)[client]
                for name, block in batch.tables.items()
            }
            arrays = {n: Array(np.asarray(value + change[n])) for n, value in params.items()}
            metrics = MetricRecord(
                {
                    "num-examples": int(batch.weight[client]),
                    "train_loss": float(batch.metrics["loss_before"][client]),
                }
            )
            content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
            replies.append(Message(content, reply_to=Message(RecordDict(), 1, "train")))
        merged, _ = strategy.aggregate_train(number, replies)
        params = {str(name): array.numpy() for name, array in merged.items()}
        after.append(params)
    return after


def rounds_of(clients: int, seed: int, count: int = 3, tables: bool = True) -> list[UpdateBatch]:
    rows = [[*range(N_ITEMS)]] * clients
    rounds = [updates(rows, seed + 1000 * number) for number in range(count)]
    return rounds if tables else [replace(batch, tables={}) for batch in rounds]


def compare(
    name: str, options: Mapping[str, Any], theirs: Any, rounds: Sequence[UpdateBatch]
) -> None:
    expected = flowers(theirs, rounds)
    for one, other in zip(ours(name, options, rounds), expected, strict=True):
        for key, value in other.items():
            np.testing.assert_allclose(one[key], value, rtol=1e-5, atol=1e-5, err_msg=key)


NONE: dict[str, Any] = {"fraction_train": 0.0}
BY_EXAMPLES = {"average": "cohort", "weighting": "examples"}
MEANS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "FedAvg": ("fedavg", {}, lambda: flower.FedAvg(**NONE)),
    "FedAvgM": (
        "fedavgm",
        {"server_optimizer": {"lr": 0.7, "momentum": 0.8}},
        lambda: flower.FedAvgM(**NONE, server_learning_rate=0.7, server_momentum=0.8),
    ),
    "FedAdagrad": (
        "fedadagrad",
        {"server_optimizer": {"lr": 0.1, "tau": 0.01}},
        lambda: flower.FedAdagrad(**NONE, eta=0.1, tau=0.01),
    ),
    "FedYogi": (
        "fedyogi",
        {"server_optimizer": {"lr": 0.1, "beta1": 0.8, "beta2": 0.95, "tau": 0.01}},
        lambda: flower.FedYogi(**NONE, eta=0.1, beta_1=0.8, beta_2=0.95, tau=0.01),
    ),
}


@pytest.mark.parametrize("theirs", sorted(MEANS))
@settings(max_examples=8, deadline=None)
@given(clients=CLIENTS, seed=SEEDS)
def test_means_and_server_optimizers(theirs: str, clients: int, seed: int) -> None:
    name, options, make = MEANS[theirs]
    options = {**options, "aggregation": BY_EXAMPLES}
    compare(name, options, make(), rounds_of(clients, seed))


@settings(max_examples=8, deadline=None)
@given(clients=CLIENTS, seed=SEEDS)
def test_adam_after_a_round_without_change(clients: int, seed: int) -> None:
    """Flower corrects the moments of its round t as ours of round t + 1."""
    rounds = rounds_of(clients, seed)
    still = replace(
        rounds[0],
        tables={n: replace(b, values=0 * b.values) for n, b in rounds[0].tables.items()},
        dense={name: 0 * values for name, values in rounds[0].dense.items()},
    )
    rates = {"lr": 0.1, "beta1": 0.8, "beta2": 0.95, "bias_correction": True}
    options = {"server_optimizer": {**rates, "tau": 1e-9}, "aggregation": BY_EXAMPLES}
    first, *came = ours("fedadam", options, [still, *rounds])
    for key, value in first.items():
        assert np.array_equal(value, PARAMS[key])
    theirs = flower.FedAdam(**NONE, eta=0.1, beta_1=0.8, beta_2=0.95, tau=1e-9)
    for one, other in zip(came, flowers(theirs, rounds), strict=True):
        for key, value in other.items():
            np.testing.assert_allclose(one[key], value, rtol=1e-5, atol=1e-5, err_msg=key)


@settings(max_examples=8, deadline=None)
@given(clients=CLIENTS, seed=SEEDS)
def test_median(clients: int, seed: int) -> None:
    compare("median", {}, flower.FedMedian(**NONE), rounds_of(clients, seed))


@settings(max_examples=8, deadline=None)
@given(clients=st.integers(4, 12), seed=SEEDS, trim=st.sampled_from([0.25, 0.4]))
def test_trimmed_mean_of_enough_clients_to_trim(clients: int, seed: int, trim: float) -> None:
    options = {"aggregation": {"trim": trim}}
    compare(
        "trimmed_mean", options, flower.FedTrimmedAvg(**NONE, beta=trim), rounds_of(clients, seed)
    )


@settings(max_examples=8, deadline=None)
@given(f=st.integers(0, 2), more=st.integers(0, 4), select=st.integers(1, 3), seed=SEEDS)
def test_krum_of_dense_parameters(f: int, more: int, select: int, seed: int) -> None:
    """Together they are one vector; Flower's weights are set equal, ours always are."""
    rounds = rounds_of(2 * f + 3 + more, seed, tables=False)
    rounds = [replace(batch, weight=np.ones(len(batch.weight))) for batch in rounds]
    krum = flower.Krum(**NONE, num_malicious_nodes=f)
    compare("krum", {"aggregation": {"byzantine": f}}, krum, rounds)
    select = min(select, f + 1 + more)
    options = {"aggregation": {"byzantine": f, "select": select}}
    several = flower.MultiKrum(**NONE, num_malicious_nodes=f, num_nodes_to_select=select)
    compare("multi_krum", options, several, rounds)


@settings(max_examples=3, deadline=None)  # Flower collects garbage for every client
@given(clients=st.integers(3, 6), seed=SEEDS)
def test_bulyan_without_attackers(clients: int, seed: int) -> None:
    """Everybody is chosen, in whatever order."""
    rounds = rounds_of(clients, seed, count=1, tables=False)
    options = {"aggregation": {"byzantine": 0}}
    compare("bulyan", options, flower.Bulyan(**NONE, num_malicious_nodes=0), rounds)


@settings(max_examples=5, deadline=None)  # as above
@given(clients=st.integers(1, 4), seed=SEEDS, q=st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_q_fair(clients: int, seed: int, q: float) -> None:
    rounds = [
        replace(batch, metrics={**batch.metrics, "loss_before": 0.1 + batch.metrics["loss_before"]})
        for batch in rounds_of(clients, seed, count=1)
    ]
    options = {"aggregation": {"q": q, "lipschitz": 4.0}}
    theirs = flower.QFedAvg(client_learning_rate=0.25, q=q, **NONE)
    compare("qfedavg", options, theirs, rounds)
