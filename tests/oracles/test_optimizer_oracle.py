"""Local training against `torch.optim` on whole tables, one client at a time."""

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.training.clients import train_clients
from fedrec.training.optimizers import Optimizer
from fedrec.training.plan import plan_training
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, Params, Shard
from strategies.client_rules.proximal import Proximal
from tests.contracts.own_models import BiasedMF
from tests.planted import federations, initial_state, method_of, split_state

Tensor = torch.Tensor

SGD = st.fixed_dictionaries(
    {"name": st.just("sgd"), "lr": st.just(0.1)},
    optional={"momentum": st.just(0.8), "nesterov": st.booleans()},
).filter(lambda options: "momentum" in options or not options.get("nesterov"))
# With a tiny epsilon a step is the sign of the gradient, of rounding errors too.
ADAM = st.fixed_dictionaries(
    {"name": st.sampled_from(["adam", "adamw"]), "lr": st.just(0.05), "epsilon": st.just(0.01)},
    optional={"beta1": st.just(0.7), "beta2": st.just(0.9)},
)


def decaying(options: dict[str, Any], weight_decay: float) -> dict[str, Any]:
    return options | {"weight_decay": weight_decay}


DECAYING = st.builds(decaying, SGD | ADAM, st.sampled_from([0.0, 0.3]))
OPTIMIZERS = st.fixed_dictionaries({"item": SGD | ADAM, "shared": DECAYING, "private": DECAYING})
TRAINS = st.fixed_dictionaries(
    {
        "optimizers": OPTIMIZERS,
        "clip_norm": st.sampled_from([None, 0.5, 5.0]),
        "negatives": st.integers(1, 3),
        "local_epochs": st.integers(1, 3),
        "batch_size": st.sampled_from(["full", 1, 2]),
        "weight_decay": st.sampled_from([0.0, 0.2]),
    }
)


def reference(optimizer: Optimizer, values: list[Tensor]) -> torch.optim.Optimizer:
    lr, decay = optimizer.lr, optimizer.weight_decay
    if optimizer.name == "sgd":
        momentum, nesterov = optimizer.momentum, optimizer.nesterov
        return torch.optim.SGD(values, lr, momentum, weight_decay=decay, nesterov=nesterov)
    kind = torch.optim.Adam if optimizer.name == "adam" else torch.optim.AdamW
    betas = (optimizer.beta1, optimizer.beta2)
    return kind(values, lr, betas, optimizer.epsilon, decay)


def add(value: Tensor, term: Tensor) -> None:
    assert value.grad is not None
    value.grad += term


class SlowClient:
    """One client whose private optimizers live from round to round, those of the rest do not."""

    def __init__(self, task: ClientTask, shard: Shard, local: Params) -> None:
        def trained(name: str) -> list[Tensor]:
            return [torch.tensor(row).double().requires_grad_() for row in local[name]]

        self.task, self.shard = task, shard
        self.private = {"user": trained("user"), "client_bias": trained("client_bias")}
        optimizer = task.train.optimizers.private
        self.of_users = [reference(optimizer, [user]) for user in self.private["user"]]
        self.of_client = reference(optimizer, self.private["client_bias"])

    def round(self, params: Params, round: int) -> dict[str, FloatArray]:
        train, rule = self.task.train, self.task.client_rule
        start = {name: torch.tensor(value).double() for name, value in params.items()}
        shared = {name: value.clone().requires_grad_() for name, value in start.items()}
        tables = reference(train.optimizers.item, [shared["item"], shared["item_bias"]])
        dense = reference(train.optimizers.shared, [shared["constant"]])
        users, (bias,) = self.private["user"], self.private["client_bias"]
        every = [*shared.values(), *users, bias]
        for epoch in plan_training(self.task, self.shard, round).epochs:
            draws = epoch.draws
            for number in range(len(epoch.steps)):
                loss = torch.zeros((), dtype=torch.float64)
                chosen = np.flatnonzero(draws.step == number)
                for at in chosen:
                    items = torch.tensor([draws.items[at], *draws.negatives[at]])
                    labels = torch.zeros(len(items), dtype=torch.float64)
                    labels[0] = 1.0
                    logits = shared["item"][items] @ users[draws.users[at]]
                    logits = logits + shared["item_bias"][items] + shared["constant"] + bias
                    loss = loss + torch.nn.functional.binary_cross_entropy_with_logits(
                        logits, labels, reduction="sum"
                    )
                present = np.unique(draws.users[chosen])
                gradients = torch.autograd.grad(loss, every, materialize_grads=True)
                if train.clip_norm is not None:
                    norm = torch.stack([each.square().sum() for each in gradients]).sum().sqrt()
                    gradients = tuple(g * (train.clip_norm / norm).clamp(max=1) for g in gradients)
                for value, gradient in zip(every, gradients, strict=True):
                    value.grad = gradient.clone()
                for name, value in shared.items():
                    add(value, rule.proximal * (value.detach() - start[name]))
                for user in present:
                    n = (draws.users[chosen] == user).sum()
                    add(users[user], train.weight_decay * n * users[user].detach())
                add(bias, train.weight_decay * len(chosen) * bias.detach())
                stepping = [self.of_users[user] for user in present]
                for optimizer in (tables, dense, self.of_client, *stepping):
                    optimizer.step()
        return {name: (value - start[name]).detach().numpy() for name, value in shared.items()}


@settings(max_examples=60, deadline=None)
@given(
    shard=federations(several=True),
    train=TRAINS,
    proximal=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 5),
)
def test_every_group_steps_as_torch_optim(
    shard: Shard, train: dict[str, Any], proximal: float, seed: int
) -> None:
    """Two rounds from the same shared parameters; clients together against clients alone."""
    rule = Proximal(mu=proximal)
    task = method_of(train, model=BiasedMF(), dtype="float64", seed=seed, client_rule=rule)
    params, local = initial_state(task, shard)
    rows = [np.array([row]) for row in range(shard.n_clients)]
    clients = [
        SlowClient(task, shard.take(row), split_state(task, shard, local, row)) for row in rows
    ]
    for round in (1, 2):
        update, local = train_clients(task, shard, params, local, round)
        for row, client in zip(rows, clients, strict=True):
            change = client.round(params, round)
            for name, block in update.tables.items():
                at = slice(*block.offsets[row[0] : row[0] + 2])
                computed = np.zeros_like(change[name])
                computed[block.ids[at]] = block.values[at]
                np.testing.assert_allclose(computed, change[name], atol=1e-10)
            np.testing.assert_allclose(
                update.dense["constant"][row[0]], change["constant"], atol=1e-10
            )
            private = split_state(task, shard, local, row)
            for name, values in client.private.items():
                expected = torch.stack(values).detach().numpy()
                np.testing.assert_allclose(private[name], expected, atol=1e-10)
