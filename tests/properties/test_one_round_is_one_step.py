"""A round of the federation is a step of centralised gradient descent, written with plain torch."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.compute.context import RoundContext
from fedrec.training.clients import train_clients
from fedrec.training.plan import plan_training
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, Params, Shard
from strategies import FedAvg
from tests.contracts.own_models import BiasedMF
from tests.planted import federations, initial_state, method_of, rates

LR = 0.3
TRAIN = {"optimizers": rates(LR, {"name": "sgd", "lr": LR})}


def tensor(value: FloatArray) -> torch.Tensor:
    return torch.tensor(np.array(value, np.float64))


def centralised(task: ClientTask, shard: Shard, start: Params) -> dict[str, FloatArray]:
    """One gradient step on the loss summed over everybody; all parameters in one place."""
    items, users = (
        torch.nn.Embedding(len(start[name]), start[name].shape[1], _weight=tensor(start[name]))
        for name in ("item", "user")
    )
    leaves = {"item": items.weight, "user": users.weight}
    biased = isinstance(task.model, BiasedMF)
    if biased:
        for name in ("item_bias", "constant", "client_bias"):
            leaves[name] = torch.nn.Parameter(tensor(start[name]))
    optimizer = torch.optim.SGD(list(leaves.values()), lr=LR)
    (epoch,) = plan_training(task, shard, round=1).epochs
    loss_of = torch.nn.BCEWithLogitsLoss(reduction="sum")
    client_of_user = torch.from_numpy(shard.client_of_user())
    counts = torch.from_numpy(shard.train.lengths).double()
    loss = 0.5 * task.train.weight_decay * (counts @ users.weight.square().sum(1))
    if biased:
        owned = torch.zeros(shard.n_clients).double().index_add_(0, client_of_user, counts)
        decay = 0.5 * task.train.weight_decay * (leaves["client_bias"].square() @ owned)
        loss = loss + decay
    draws = epoch.draws
    owners = np.repeat(draws.users, task.train.negatives)
    for of_users, of_items, label in (
        (draws.users, draws.items, 1.0),
        (owners, draws.negatives.ravel(), 0.0),
    ):
        user, item = torch.from_numpy(of_users), torch.from_numpy(of_items)
        logit = (users(user) * items(item)).sum(1)
        if biased:
            logit = logit + leaves["item_bias"][item] + leaves["constant"]
            logit = logit + leaves["client_bias"][client_of_user[user]]
        loss = loss + loss_of(logit, torch.full_like(logit, label))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return {name: value.detach().numpy() for name, value in leaves.items()}


def federated(task: ClientTask, shard: Shard, strategy: FedAvg) -> dict[str, FloatArray]:
    """One round, through the node's and the server's half of the strategy."""
    params, local = initial_state(task, shard)
    update, after = train_clients(task, shard, params, local, round=1)
    context = RoundContext(0, 1, shard.n_clients, shard.n_items)
    state = strategy.init(params, context)
    _, params = strategy.apply(state, params, {0: strategy.reduce(update)}, context)
    return {**params, **after}


def check(task: ClientTask, shard: Shard, strategy: FedAvg) -> None:
    params, local = initial_state(task, shard)
    expected = centralised(task, shard, {**params, **local})
    computed = federated(task, shard, strategy)
    for name, value in expected.items():
        np.testing.assert_allclose(computed[name], value, rtol=1e-5, atol=2e-6, err_msg=name)


@settings(max_examples=15, deadline=None)
@given(shard=federations(), who=st.integers(0, 8), seed=st.integers(0, 99), average=st.data())
def test_one_client_is_a_centralised_step(
    shard: Shard, who: int, seed: int, average: st.DataObject
) -> None:
    one = shard.take(np.array([who % shard.n_clients]))
    kind = average.draw(st.sampled_from(["per_row", "cohort", "sum"]))
    check(method_of(TRAIN, seed=seed), one, FedAvg(aggregation={"average": kind}))


@pytest.mark.parametrize("extra", [{}, {"weight_decay": 0.2}], ids=["plain", "decay"])
@pytest.mark.parametrize("model", [None, BiasedMF()], ids=["mf", "biased"])
@settings(max_examples=10, deadline=None)
@given(shard=federations(several=True), seed=st.integers(0, 99))
def test_everybody_summed_is_a_centralised_step(
    shard: Shard, seed: int, model: BiasedMF | None, extra: dict[str, Any]
) -> None:
    task = method_of({**TRAIN, **extra}, model=model, seed=seed)
    check(task, shard, FedAvg(aggregation={"average": "sum"}))
