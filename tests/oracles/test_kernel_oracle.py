"""The kernel against an independent loop: one client at a time, dense tables, torch's own parts.

The loop shares nothing with the kernel but the drawn negatives: whole tables instead of touched
rows, binary_cross_entropy_with_logits instead of logsigmoid, torch.optim instead of our optimiser,
dense kernel matrices instead of pairs.
"""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.models.base import Model
from fedrec.models.pfedrec import PFedRec
from fedrec.personalization.base import NoPersonalization, Personalization
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.training.clients import train_clients
from fedrec.training.plan import plan_training
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, Params, Shard
from strategies.client_rules.proximal import Proximal
from tests.planted import (
    federations,
    in_numba,
    initial_state,
    method_of,
    one_user_each,
    rates,
    split_state,
)

Tensor = torch.Tensor


def slow_client(
    task: ClientTask, shard: Shard, params: Params, local: Params, round: int
) -> tuple[FloatArray, dict[str, FloatArray], float]:
    """One client, written as a reader of the definitions would."""
    kind = torch.float64  # Also of float32: the difference is the kernel's rounding alone.
    train, plgc = task.train, task.personalization
    linear = isinstance(task.model, PFedRec)
    frozen = torch.tensor(np.array(params["item"]), dtype=kind)
    table = frozen.clone().requires_grad_()
    vectors = torch.tensor(np.array(local["head" if linear else "user"]), dtype=kind)
    users = [vector.clone().requires_grad_() for vector in vectors]
    offsets = torch.tensor(np.array(local["bias"]) if linear else np.zeros(shard.n_users))
    biases = [offset.to(kind).clone().requires_grad_() for offset in offsets]
    work = plan_training(task, shard, round)
    adam = train.optimizers.private
    private: list[Any] = [
        torch.optim.Adam(own, lr=adam.lr, betas=(0.9, 0.999), eps=adam.epsilon)
        if adam.name == "adam"
        else torch.optim.SGD(own, lr=adam.lr)
        for own in ([v, b] if linear else [v] for v, b in zip(users, biases, strict=True))
    ]
    shared = torch.optim.SGD([table], lr=train.optimizers.item.lr)
    state = {}
    if isinstance(plgc, PLGC):
        state["lambda"] = torch.tensor(np.array(local["lambda"]), dtype=kind)
        residual = torch.zeros_like(frozen)
        own = sorted(set(shard.train.values.tolist()))
        if plgc.branch == "table":
            residual[own] = torch.tensor(np.array(local["residual"]), dtype=kind)

    def kernel(user: int) -> Tensor:
        """[n_items, n]: the features of the local branch, for every item."""
        assert isinstance(plgc, PLGC)
        items = shard.train.row(user)
        centred = frozen - frozen.mean(0)
        z = torch.nn.functional.normalize(centred, dim=1, eps=0)
        kappa: Tensor = (z @ z[items].T).clamp(min=0) ** plgc.beta
        kappa[items, np.arange(len(items))] = 0
        return kappa.div(len(items) ** 0.5)

    def seen(user: int) -> Tensor:
        """[n_items, d]: the item vectors that the user's model sees."""
        if isinstance(plgc, PLGC) and plgc.branch == "table":
            share = state["lambda"][user]
            mixed: Tensor = share * (table + residual) + (1 - share) * frozen
            return mixed
        return table

    def logits(user: int, items: Tensor) -> Tensor:
        score: Tensor = seen(user)[items] @ users[user]
        if linear:
            score = score + biases[user]
        if isinstance(plgc, PLGC) and plgc.branch == "similarity" and plgc.mode == "joint":
            score = score + state["lambda"][user] * plgc.tau * kernel(user).sum(1)[items]
        return score

    loss_of_epoch = 0.0
    for epoch in work.epochs:
        draws = epoch.draws
        random_of = [draws.random.row(u) for u in range(shard.n_users)]
        loss_of_epoch = 0.0
        for number in range(len(epoch.steps)):
            for optimizer in private:
                optimizer.zero_grad()
            shared.zero_grad()
            total = torch.zeros((), dtype=kind)
            chosen = np.flatnonzero(draws.step == number)
            for user in range(shard.n_users):
                of_user = chosen[draws.users[chosen] == user]
                if len(of_user) == 0:
                    continue
                positive = torch.from_numpy(draws.items[of_user])
                negative = torch.from_numpy(draws.negatives[of_user].ravel())
                good, bad = logits(user, positive), logits(user, negative)
                if train.loss == "bce":
                    bce = torch.nn.functional.binary_cross_entropy_with_logits
                    both = torch.cat([good, bad])
                    labels = torch.cat([torch.ones_like(good), torch.zeros_like(bad)])
                    plain = bce(both, labels, reduction="sum")
                    rows = len(chosen) * (1 + train.negatives)
                else:
                    margin = good.repeat_interleave(train.negatives) - bad
                    plain = torch.nn.functional.softplus(-margin).sum()
                    rows = len(chosen) * train.negatives
                loss_of_epoch += float(plain.detach())
                squared = users[user].square().sum() + biases[user].square()
                decay = 0.5 * train.weight_decay * len(of_user) * squared
                scale = 1.0 if train.reduction == "sum" else 1.0 / rows
                total = total + scale * (plain + decay)
                if isinstance(plgc, PLGC) and plgc.decorrelation > 0:
                    more = torch.from_numpy(random_of[user])
                    distinct = torch.unique(torch.cat([positive, negative, more]))
                    total = total + plgc.decorrelation * decorrelation(
                        plgc, table, seen(user), frozen, distinct
                    )
            total = total + 0.5 * task.client_rule.proximal * (table - frozen).square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            shared.step()
            for user in np.unique(draws.users[chosen]):
                private[user].step()
        if isinstance(plgc, PLGC) and plgc.balance != "fixed":
            for user in range(shard.n_users):
                of_user = draws.users == user
                every = [draws.items[of_user], draws.negatives[of_user].ravel(), random_of[user]]
                rows_of = torch.from_numpy(np.unique(np.concatenate(every)))
                positives = torch.tensor(shard.train.row(user))
                y = torch.isin(rows_of, positives).to(kind)
                with torch.no_grad():
                    features = (
                        kernel(user)[rows_of]
                        if plgc.branch == "similarity"
                        else (table + residual)[rows_of]
                    )
                    fixed = frozen[rows_of]
                    if linear:
                        one = torch.ones(len(rows_of), 1, dtype=kind)
                        fixed = torch.cat([fixed, one], 1)
                        if plgc.branch == "table":
                            features = torch.cat([features, one], 1)
                    new = share_of(plgc, features, fixed, y, logits(user, rows_of))
                state["lambda"][user] = plgc.ema * state["lambda"][user] + (1 - plgc.ema) * new
    change = (table - frozen).detach()
    after: dict[str, FloatArray] = {
        "head" if linear else "user": torch.stack(users).detach().numpy()
    }
    # A ranking loss leaves the bias out: what Adam makes of its zero gradient is rounding.
    if linear and train.loss == "bce":
        after["bias"] = torch.stack(biases).detach().numpy()
    if isinstance(plgc, PLGC):
        after["lambda"] = state["lambda"].numpy()
        if plgc.branch == "table":
            after["residual"] = (plgc.persistence * (residual + change)[own]).numpy()
    return change.numpy(), after, loss_of_epoch


def decorrelation(plgc: PLGC, table: Tensor, seen: Tensor, frozen: Tensor, rows: Tensor) -> Tensor:
    if len(rows) < 2:
        return torch.zeros((), dtype=table.dtype)
    d = table.shape[1]
    if plgc.view == "single" or (plgc.view == "auto" and plgc.branch == "similarity"):
        correlation = torch.corrcoef(table[rows].T)
        return (correlation**2).sum().sub((torch.diagonal(correlation) ** 2).sum()) / (d * (d - 1))
    both = torch.corrcoef(torch.cat([seen[rows].T, frozen[rows].T]))[:d, d:]
    diagonal = torch.diagonal(both)
    off = (both**2).sum() - (diagonal**2).sum()
    return ((1 - diagonal) ** 2).sum() / d + plgc.gamma * off / d


def share_of(plgc: PLGC, local: Tensor, frozen: Tensor, y: Tensor, logit: Tensor) -> Tensor:
    """The definitions with explicit kernel matrices."""
    if plgc.balance == "trace":
        centre = torch.eye(len(y), dtype=y.dtype) - 1 / len(y)
        sizes = [torch.trace(centre @ f @ f.T @ centre) for f in (local, frozen)]
    elif plgc.balance == "residual":
        r = torch.sigmoid(logit) - y
        sizes = [r @ (f @ f.T) @ r for f in (local, frozen)]
    else:
        centred = y - y.mean()
        sizes = [
            centred @ (f @ f.T) @ centred / torch.trace(f @ f.T) if f.abs().sum() > 0 else f.sum()
            for f in (local, frozen)
        ]
    total = sizes[0] + sizes[1]
    return sizes[0] / total if total > 0 else torch.full_like(total, 0.5)


PERSONALIZATIONS: list[Personalization] = [
    NoPersonalization(),
    PLGC(branch="similarity", balance="alignment", decorrelation=0.05, tau=2.0),
    PLGC(branch="similarity", mode="decoupled"),
    PLGC(branch="similarity", balance="fixed", value=0.3, decorrelation=0.05, tau=2.0),
    PLGC(branch="similarity", balance="residual", tau=2.0),
    PLGC(branch="similarity", balance="trace", mode="decoupled", beta=3.0),
    PLGC(branch="table", balance="trace", decorrelation=0.05, gamma=0.5),
    PLGC(branch="table", balance="alignment", persistence=0.5),
    PLGC(branch="table", balance="fixed", value=0.3),
    PLGC(branch="table", balance="residual", view="single", decorrelation=0.05, extra_rows=2),
    PLGC(branch="similarity", balance="alignment", view="cross", decorrelation=0.05, gamma=0.5),
    PLGC(branch="similarity", balance="residual", extra_rows=3, decorrelation=0.05),
]

CASES = [
    (kernel, personalization)
    for personalization in PERSONALIZATIONS
    for kernel in ("torch", "numba")
    if kernel == "torch" or in_numba(personalization)
]

TRAINS = st.fixed_dictionaries(
    {
        "loss": st.sampled_from(["bce", "bpr"]),
        "reduction": st.sampled_from(["sum", "mean"]),
        "negatives": st.integers(1, 4),
        "local_epochs": st.integers(1, 3),
        "batch_size": st.sampled_from(["full", 2, 3]),
        "optimizers": st.builds(
            rates,
            st.sampled_from([0.1, 0.5]),
            st.sampled_from(
                [
                    {"name": "sgd", "lr": 0.1},
                    # With a tiny epsilon Adam's first step is the sign of the gradient, of rounding
                    # errors too.
                    {"name": "adam", "lr": 0.05, "epsilon": 0.01},
                ]
            ),
        ),
        "weight_decay": st.sampled_from([0.0, 0.2]),
    }
)


@pytest.mark.parametrize(("kernel", "personalization"), CASES, ids=lambda p: repr(p)[:60])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=8, deadline=None)
@given(
    shard=federations(several=True),
    train=TRAINS,
    seed=st.integers(0, 5),
    model=st.sampled_from([None, PFedRec(embedding_dim=4, init_std=0.5, head_std=0.5)]),
    proximal=st.sampled_from([0.0, 0.3]),
)
def test_the_kernel_is_the_loop(
    shard: Shard,
    train: dict[str, Any],
    seed: int,
    model: Model | None,
    proximal: float,
    personalization: Personalization,
    dtype: str,
    kernel: str,
) -> None:
    half = Proximal(mu=proximal)
    if kernel == "numba":
        shard, train = one_user_each(shard), train | {"loss": "bce"}
    if dtype == "float32" and isinstance(personalization, PLGC):
        # Two rows correlate by 1 or -1 whatever they are: a gradient of 0, of which rounding
        # leaves something, over a standard deviation that may be tiny.
        personalization = personalization.model_copy(update={"decorrelation": 0.0})
    task = method_of(train | {"backend": kernel}, personalization, model, dtype, seed, half)
    params, local = initial_state(task, shard)
    update, after = train_clients(task, shard, params, local, round=3)
    block = update.tables["item"]
    # Values are of order 1, and each of several steps rounds: 2e-6 was seen, of the reference too.
    tolerance = {"float32": 1e-5, "float64": 1e-9}[dtype]
    for row in range(shard.n_clients):
        chosen = np.array([row])
        one, private = shard.take(chosen), split_state(task, shard, local, chosen)
        change, expected, loss = slow_client(task, one, params, private, round=3)
        computed = np.zeros_like(change)
        at = slice(block.offsets[row], block.offsets[row + 1])
        computed[block.ids[at]] = block.values[at]
        np.testing.assert_allclose(computed, change, atol=tolerance, rtol=tolerance)
        private_after = split_state(task, shard, after, chosen)
        for name, value in expected.items():
            np.testing.assert_allclose(
                private_after[name], value, atol=tolerance, rtol=tolerance, err_msg=name
            )
        np.testing.assert_allclose(update.metrics["loss"][row], loss, atol=1e-3, rtol=1e-5)
