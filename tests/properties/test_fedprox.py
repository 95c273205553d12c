"""FedProx against a loop that adds the proximal term to the loss, over whole tables."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.compute.context import RoundContext
from fedrec.models.base import Model
from fedrec.training.clients import train_clients
from fedrec.training.plan import plan_training
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, Params, Shard, State
from strategies import FedAvg, FedProx
from strategies.client_rules.proximal import Proximal
from tests.contracts.own_models import BiasedMF
from tests.planted import federations, initial_state, method_of, rates, split_state

TRAINS = st.fixed_dictionaries(
    {
        "loss": st.sampled_from(["bce", "bpr"]),
        "reduction": st.sampled_from(["sum", "mean"]),
        "negatives": st.integers(1, 3),
        "optimizers": st.builds(
            rates, st.sampled_from([0.1, 0.4]), st.just({"name": "sgd", "lr": 0.1})
        ),
        "weight_decay": st.sampled_from([0.0, 0.2]),
    }
)
SEVERAL_STEPS = st.sampled_from(
    [
        {"local_epochs": 2, "batch_size": "full"},
        {"local_epochs": 1, "batch_size": 2},
        {"local_epochs": 3, "batch_size": 3},
    ]
)


def slow_client(
    task: ClientTask, shard: Shard, params: Params, local: Params, mu: float
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """One client: every global parameter in full, the term in the loss, torch's own SGD.

    Returns:
        The change of each global parameter, and the local parameters after the round.
    """
    train = task.train
    start = {n: torch.tensor(np.array(v)).double() for n, v in params.items()}
    shared = {n: v.clone().requires_grad_() for n, v in start.items()}
    names = [n for n, s in task.specs().items() if s.scope == "private" and s.trainable]
    own = {n: torch.tensor(np.array(local[n])).double().requires_grad_() for n in names}
    optimizer = torch.optim.SGD(
        [
            {"params": list(shared.values()), "lr": train.optimizers.item.lr},
            {"params": list(own.values()), "lr": train.optimizers.private.lr},
        ]
    )
    biased = isinstance(task.model, BiasedMF)

    def logits(user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        score: torch.Tensor = (own["user"][user] * shared["item"][item]).sum(1)
        if biased:
            score = score + shared["item_bias"][item] + shared["constant"] + own["client_bias"][0]
        return score

    for epoch in plan_training(task, shard, round=4).epochs:
        draws = epoch.draws
        for number in range(len(epoch.steps)):
            chosen = np.flatnonzero(draws.step == number)
            users = torch.from_numpy(draws.users[chosen])
            good = logits(users, torch.from_numpy(draws.items[chosen]))
            negatives = torch.from_numpy(draws.negatives[chosen])
            bad = logits(users.repeat_interleave(train.negatives), negatives.ravel())
            if train.loss == "bce":
                bce = torch.nn.functional.binary_cross_entropy_with_logits
                total = bce(good, torch.ones_like(good), reduction="sum")
                total = total + bce(bad, torch.zeros_like(bad), reduction="sum")
                rows = len(good) + len(bad)
            else:
                margin = good.repeat_interleave(train.negatives) - bad
                total, rows = torch.nn.functional.softplus(-margin).sum(), len(bad)
            count = np.bincount(draws.users[chosen], minlength=shard.n_users)
            of_user = torch.tensor(count).double() @ own["user"].square().sum(1)
            total = total + 0.5 * train.weight_decay * of_user
            if biased:
                decay = own["client_bias"].square().sum()
                total = total + 0.5 * train.weight_decay * len(good) * decay
            total = total if train.reduction == "sum" else total / rows
            for name, value in shared.items():
                total = total + 0.5 * mu * (value - start[name]).square().sum()
            optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return (
        {n: (shared[n] - start[n]).detach().numpy() for n in shared},
        {n: v.detach().numpy() for n, v in own.items()},
    )


def check(task: ClientTask, shard: Shard, mu: float) -> None:
    params, local = initial_state(task, shard)
    update, after = train_clients(task, shard, params, local, round=4)
    for row in range(shard.n_clients):
        chosen = np.array([row])
        private = split_state(task, shard, local, chosen)
        change, expected = slow_client(task, shard.take(chosen), params, private, mu)
        for name, value in change.items():
            computed = np.zeros_like(value)
            if name in update.tables:
                block = update.tables[name]
                at = slice(block.offsets[row], block.offsets[row + 1])
                computed[block.ids[at]] = block.values[at]
            else:
                computed = update.dense[name][row]
            np.testing.assert_allclose(computed, value, atol=1e-10, rtol=0, err_msg=name)
        left = split_state(task, shard, after, chosen)
        for name, value in expected.items():
            np.testing.assert_allclose(left[name], value, atol=1e-10, rtol=0, err_msg=name)


@pytest.mark.parametrize("model", [None, BiasedMF()], ids=["mf", "biased"])
@settings(max_examples=20, deadline=None)
@given(
    shard=federations(several=True),
    train=TRAINS,
    steps=SEVERAL_STEPS,
    mu=st.sampled_from([0.1, 1.0, 2.0]),
    seed=st.integers(0, 9),
)
def test_the_term_is_that_of_the_loss(
    model: Model | None,
    shard: Shard,
    train: dict[str, Any],
    steps: dict[str, Any],
    mu: float,
    seed: int,
) -> None:
    half = Proximal(mu=mu)
    check(
        method_of(train | steps, model=model, dtype="float64", seed=seed, client_rule=half),
        shard,
        mu,
    )


@settings(max_examples=10, deadline=None)
@given(
    shard=federations(),
    train=TRAINS,
    steps=SEVERAL_STEPS,
    mu=st.sampled_from([0.1, 2.0]),
)
def test_in_machine_code_too(
    shard: Shard, train: dict[str, Any], steps: dict[str, Any], mu: float
) -> None:
    pytest.importorskip("numba", reason="needs the extra 'sim'")
    fields = train | steps | {"backend": "numba", "loss": "bce"}
    task = method_of(fields, dtype="float64", client_rule=Proximal(mu=mu))
    assert task.executor() == "numba"
    check(task, shard, mu)


def bits(task: ClientTask, shard: Shard, strategy: FedAvg | FedProx) -> dict[str, bytes]:
    """Two rounds, and what they leave behind."""
    params, local = initial_state(task, shard)
    for number in (1, 2):
        update, local = train_clients(task, shard, params, local, number)
        context = RoundContext(0, number, shard.n_clients, shard.n_items)
        params = strategy.apply(State(), params, {0: strategy.reduce(update)}, context)[1]
    return {name: value.tobytes() for name, value in {**params, **local}.items()}


@settings(max_examples=10, deadline=None)
@given(shard=federations(several=True), train=TRAINS, steps=SEVERAL_STEPS)
def test_without_the_term_it_is_federated_averaging(
    shard: Shard, train: dict[str, Any], steps: dict[str, Any]
) -> None:
    results = [
        bits(method_of(train | steps, model=BiasedMF(), client_rule=s.client_rule), shard, s)
        for s in (FedProx(client_rule={"mu": 0}), FedAvg())
    ]
    assert results[0] == results[1]


@settings(max_examples=10, deadline=None)
@given(shard=federations(several=True), mu=st.sampled_from([0.5, 5.0]))
def test_with_one_step_the_term_is_nothing(shard: Shard, mu: float) -> None:
    train = {"optimizers": rates(0.1), "local_epochs": 1, "batch_size": "full"}
    results = [
        bits(method_of(train, client_rule=s.client_rule), shard, s)
        for s in (FedProx(client_rule={"mu": mu}), FedAvg())
    ]
    assert results[0] == results[1]


@settings(max_examples=10, deadline=None)
@given(shard=federations(), mu=st.sampled_from([1.0, 10.0, 1000.0]))
def test_a_strong_term_keeps_the_rows_at_the_start(shard: Shard, mu: float) -> None:
    """With a rate of 1 / mu a step forgets the way gone: only the last gradient is left.

    A row's gradient is at most the user's vector, once per pair; so the change is O(1 / mu).
    """
    train = {
        "optimizers": rates(1 / mu, {"name": "sgd", "lr": 1e-9}),
        "local_epochs": 6,
        "negatives": 2,
    }
    task = method_of(train, dtype="float64", client_rule=Proximal(mu=mu))
    params, local = initial_state(task, shard)
    update, _ = train_clients(task, shard, params, local, 1)
    block = update.tables["item"]
    owner = np.repeat(np.arange(shard.n_clients), np.diff(block.offsets))
    pairs = 1 + 2 * shard.train.lengths[owner]
    bound = pairs * np.linalg.norm(local["user"], axis=1)[owner] / mu
    assert (np.linalg.norm(block.values, axis=1) <= bound * (1 + 1e-6)).all()
