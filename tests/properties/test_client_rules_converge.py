r"""Where client rules converge to, on quadratic losses with minima of each client's own.

Let client u have :math:`F_u(x) = \tfrac{A_u}{2} \lVert x - b_u \rVert^2` and K steps of rate
:math:`\eta`. Plain steps move it by :math:`(1 - (1 - \eta A_u)^K) (b_u - x)`. So a rule without
memory stands still where :math:`\sum_u w_u (b_u - x) = 0`, with weights that follow from its steps,
and the optimum is where they are :math:`A_u`.
"""

from typing import Any

import numpy as np
import pytest

from fedrec.types import FloatArray
from strategies import FedAvg, FedDyn, FedNova, FedProx, Scaffold, Strategy
from tests.quadratic import Federation, Quadratic

LR, EPOCHS = 0.2, 2
COHORT: dict[str, Any] = {"aggregation": {"average": "cohort"}}
RULES = ["scaffold", "feddyn"]
full_or_single = pytest.mark.parametrize("full", [True, False], ids=["full", "single"])


def trained(full: bool, lr: float = LR, epochs: int = EPOCHS) -> dict[str, Any]:
    """Local training; a client makes a step per epoch, or one for each of its 1 to 3 items."""
    return {
        "batch_size": "full" if full else 1,
        "local_epochs": epochs,
        "negatives": 1,
        "optimizers": {"item": {"lr": 0.5}, "shared": {"lr": lr}},
    }


def steps_of(federation: Federation, full: bool, epochs: int = EPOCHS) -> FloatArray:
    return epochs * (np.ones(4) if full else federation.shard.examples())


def shares_of_way(curvature: FloatArray, steps: FloatArray, lr: float) -> FloatArray:
    """The share of the way to its minimum that each client goes."""
    return np.asarray(1 - (1 - lr * curvature) ** steps)


@pytest.mark.parametrize("strategy", [Scaffold(), FedDyn(client_rule={"alpha": 1})], ids=RULES)
def test_rules_with_memory_reach_the_optimum(strategy: Strategy) -> None:
    """All clients take part in each round, with unequally many steps."""
    federation = Federation.of(strategy, trained(False))
    for _ in range(40):
        federation.step()
    optimum = federation.level(federation.curvatures(False))
    np.testing.assert_allclose(federation.params["level"], optimum, atol=1e-4)


@pytest.mark.parametrize("strategy", [Scaffold(), FedDyn(client_rule={"alpha": 1})], ids=RULES)
def test_also_where_half_of_the_clients_take_part(strategy: Strategy) -> None:
    """So does the item table, whose rows clients touch with several steps of all their items."""
    federation, rng = Federation.of(strategy, trained(True)), np.random.default_rng(0)
    for _ in range(100):
        federation.step(np.sort(rng.choice(4, 2, replace=False)))
    optimum = federation.level(federation.curvatures(True))
    np.testing.assert_allclose(federation.params["level"], optimum, atol=1e-4)
    np.testing.assert_allclose(federation.params["item"], federation.best_table(), atol=1e-4)


@full_or_single
def test_federated_averaging_stops_beside_the_optimum(full: bool) -> None:
    federation = Federation.of(FedAvg.model_validate(COHORT), trained(full))
    curvature = federation.curvatures(full)
    for _ in range(40):
        federation.step()
    weights = shares_of_way(curvature, steps_of(federation, full), LR)
    np.testing.assert_allclose(federation.params["level"], federation.level(weights), atol=1e-5)
    assert np.abs(federation.params["level"] - federation.level(curvature)).max() > 0.02
    if full:
        assert np.abs(federation.params["item"] - federation.best_table()).max() > 0.02


@pytest.mark.parametrize("epochs", [2, 40], ids=["few steps", "exact"])
@pytest.mark.parametrize("mu", [0.5, 2.0])
def test_the_proximal_term_weighs_clients_by_their_proximal_steps(mu: float, epochs: int) -> None:
    r"""The weights are :math:`(1 - (1 - \eta (A_u + \mu))^K) A_u / (A_u + \mu)`.

    With exact minimisation this is the minimum of the sum of the clients' Moreau envelopes, which
    is the optimum in the limit of :math:`\mu \to \infty`, and the mean of the clients' minima in
    that of 0.
    """
    strategy = FedProx.model_validate({"client_rule": {"mu": mu}, **COHORT})
    federation = Federation.of(strategy, trained(True, epochs=epochs))
    curvature = federation.curvatures(True)
    weights = shares_of_way(curvature + mu, np.full(4, epochs), LR) * curvature / (curvature + mu)
    if epochs == 40:
        np.testing.assert_allclose(weights, curvature / (curvature + mu), rtol=1e-3)
    federation.params = {**federation.params, "level": federation.level(weights).astype(np.float32)}
    federation.step()
    np.testing.assert_allclose(federation.params["level"], federation.level(weights), atol=1e-6)


def test_normalised_updates_lose_the_bias_of_unequal_steps_with_the_rate() -> None:
    """As the rate falls, FedNova tends to the optimum; averaging to that of clients weighted by K.

    Both stand where the closed form of their weights says, at every rate.
    """
    biases = []
    for lr in (0.05, 0.005):
        of_rate = []
        for kind in (FedNova, FedAvg):
            federation = Federation.of(kind.model_validate(COHORT), trained(False, lr=lr))
            curvature, steps = federation.curvatures(False), steps_of(federation, False)
            weights = shares_of_way(curvature, steps, lr) / (steps if kind is FedNova else 1)
            expected = federation.level(weights)
            federation.params = {**federation.params, "level": expected.astype(np.float32)}
            federation.step()
            np.testing.assert_allclose(federation.params["level"], expected, atol=1e-6)
            of_rate.append(np.abs(expected - federation.level(curvature)).max())
        biases.append(of_rate)
    (nova, averaging), (nova_of_small_rate, averaging_of_small_rate) = biases
    assert nova_of_small_rate < 0.15 * nova
    assert nova < 0.5 * averaging
    limit = federation.level(curvature * steps) - federation.level(curvature)
    assert averaging_of_small_rate == pytest.approx(np.abs(limit).max(), rel=0.1)


@pytest.mark.parametrize(
    "strategy",
    [
        FedAvg(),
        FedDyn(client_rule={"alpha": 1}),
        FedNova(),
        FedProx(client_rule={"mu": 1}),
        Scaffold(),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_a_minimum_of_all_clients_is_where_every_rule_stays(strategy: Strategy) -> None:
    federation = Federation.of(strategy, trained(False), model=Quadratic(spread=0))
    used = np.unique(federation.shard.train.values)
    table = np.zeros((federation.shard.n_items, 2), np.float32)
    table[used] = 1
    federation.params = {"item": table, "level": np.ones(2, np.float32)}
    for _ in range(3):
        federation.step()
        for name, at_the_minimum in (("item", table), ("level", np.ones(2))):
            np.testing.assert_allclose(federation.params[name], at_the_minimum, atol=1e-6)
