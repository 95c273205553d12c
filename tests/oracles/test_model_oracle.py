"""Models beside matrix factorisation against an independent loop: torch's own modules, dense.

One client at a time, whole tables, every score computed on its own: no pairs, no padding, no
vmap. The loop shares with the kernel the drawn negatives and, of PLGC, the formulas of
`tests.oracles.test_kernel_oracle`, written with explicit kernel matrices.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.models.base import Model
from fedrec.models.neumf import NeuMF
from fedrec.models.pfedrec import PFedRec
from fedrec.models.sasrec import SASRec
from fedrec.personalization.base import NoPersonalization, Personalization
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.training.clients import train_clients
from fedrec.training.plan import plan_training
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, Params, Shard
from tests.oracles.test_kernel_oracle import decorrelation
from tests.planted import federations, initial_state, method_of, rates, split_state

Tensor = torch.Tensor
Values = dict[str, Tensor]
Score = Callable[[Values, Tensor, int, Tensor], Tensor]
"""Parameters (``user`` of one user), item vectors [n_items, d], an item, what stood before it."""


@pytest.fixture(autouse=True, scope="module")
def smooth() -> Iterator[None]:
    """Rounding decides on which side of its kink a ReLU near 0 is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "relu", torch.nn.functional.softplus)
        yield


def pfedrec(p: Values, vectors: Tensor, item: int, before: Tensor) -> Tensor:
    return torch.nn.functional.linear(vectors[item], p["head"], p["bias"])


def neumf(p: Values, vectors: Tensor, item: int, before: Tensor) -> Tensor:
    linear, d = torch.nn.functional.linear, vectors.shape[1] // 2
    hidden = torch.cat([p["user"][d:], vectors[item][d:]])
    for number in range(2):
        weight, bias = p[f"tower.{2 * number}.weight"], p[f"tower.{2 * number}.bias"]
        hidden = torch.relu(linear(hidden, weight, bias))
    both = torch.cat([p["user"][:d] * vectors[item][:d], hidden])
    return linear(both, p["last.weight"][0], p["last.bias"][0])


def sasrec(p: Values, vectors: Tensor, item: int, before: Tensor) -> Tensor:
    def linear(x: Tensor, name: str) -> Tensor:
        return torch.nn.functional.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return torch.nn.functional.layer_norm(x, (4,), p[f"{name}.weight"], p[f"{name}.bias"])

    # The whole sequence before this one item, so nothing later is there to be masked.
    x = torch.cat([p["start"][None], vectors[before]]) + p["positions"][: len(before) + 1]
    later = torch.full((len(x), len(x)), -torch.inf, dtype=x.dtype).triu(1)
    for block in ("0", "1"):
        queries, keys, values = linear(norm(x, f"{block}.norm1"), f"{block}.query_key_value").chunk(
            3, 1
        )
        mixed = []
        for head in (slice(0, 2), slice(2, 4)):
            scores = queries[:, head] @ keys[:, head].T / 2**0.5
            mixed.append((scores + later).softmax(1) @ values[:, head])
        x = x + linear(torch.cat(mixed, 1), f"{block}.mix")
        y = torch.relu(linear(norm(x, f"{block}.norm2"), f"{block}.ffn.0"))
        x = x + linear(y, f"{block}.ffn.2")
    return norm(x, "2")[-1] @ vectors[item]


MODELS: dict[str, tuple[Model, Score]] = {
    "pfedrec": (PFedRec(embedding_dim=4, init_std=0.5, head_std=0.5), pfedrec),
    "neumf": (NeuMF(embedding_dim=2, layers=(5, 3), init_std=0.5), neumf),
    "neumf-private": (NeuMF(embedding_dim=2, layers=(5, 3), init_std=0.5, head="private"), neumf),
    "sasrec": (SASRec(embedding_dim=4, max_len=5, heads=2, init_std=0.5), sasrec),
}
FORMS: dict[str, Personalization] = {
    "none": NoPersonalization(),
    "kernel": PLGC(branch="similarity", balance="fixed", value=0.75, tau=2.0, decorrelation=0.05),
    "table": PLGC(branch="table", balance="fixed", value=0.25, decorrelation=0.05),
}


def slow_client(
    task: ClientTask, score: Score, shard: Shard, params: Params, local: Params
) -> tuple[dict[str, FloatArray], dict[str, FloatArray], float]:
    """One client of one or several users, as a reader of the definitions would train it."""
    kind = torch.float64 if task.dtype == "float64" else torch.float32
    train, plgc = task.train, task.personalization
    specs = {n: s for n, s in task.specs().items() if n not in task.personalization_params()}
    shared = {n: torch.tensor(np.array(v), dtype=kind).requires_grad_() for n, v in params.items()}
    frozen = shared["item"].detach().clone()
    own: dict[str, list[Tensor]] = {}
    for name, spec in specs.items():
        if spec.scope == "private":
            rows = torch.tensor(np.array(local[name]), dtype=kind)
            own[name] = [row.clone().requires_grad_() for row in rows]
    everyone = [value for values in own.values() for value in values]
    steps = [torch.optim.SGD(list(shared.values()), lr=train.optimizers.item.lr)]
    if everyone:
        steps.append(torch.optim.SGD(everyone, lr=train.optimizers.private.lr))

    def vectors(user: int) -> Tensor:
        if isinstance(plgc, PLGC) and plgc.branch == "table":
            return plgc.value * shared["item"] + (1 - plgc.value) * frozen
        return shared["item"]

    def branch(user: int, item: int) -> Tensor:
        assert isinstance(plgc, PLGC)
        items = [other for other in shard.train.row(user).tolist() if other != item]
        centred = frozen - frozen.mean(0)
        cosine = torch.cosine_similarity(centred[items], centred[item][None], dim=1)
        similarity: Tensor = (cosine.clamp(min=0) ** plgc.beta).sum()
        return similarity / math.sqrt(len(shard.train.row(user)))

    def logit(user: int, item: int, before: Tensor) -> Tensor:
        params = dict(shared) | {n: v[user if len(v) > 1 else 0] for n, v in own.items()}
        total = score(params, vectors(user), item, before)
        if isinstance(plgc, PLGC) and plgc.branch == "similarity":
            total = total + plgc.value * plgc.tau * branch(user, item)
        return total

    def before_of(user: int, item: int) -> Tensor | None:
        """What the user took before an item, in the window; None if the item stands before it."""
        window = task.model.window
        if window is None:
            return torch.zeros(0, dtype=torch.int64)
        assert shard.timestamps is not None
        at = slice(*shard.train.offsets[user : user + 2])
        order = shard.train.values[at][np.argsort(shard.timestamps[at])][-window:].tolist()
        return torch.tensor(order[: order.index(item)]).long() if item in order else None

    work = plan_training(task, shard, 1)
    loss = 0.0
    for epoch in work.epochs:
        draws, loss = epoch.draws, 0.0
        for number in range(len(epoch.steps)):
            terms: list[Tensor] = []
            touched: dict[int, set[int]] = {user: set() for user in range(shard.n_users)}
            chosen = np.flatnonzero(draws.step == number)
            for at in chosen:
                user, item = int(draws.users[at]), int(draws.items[at])
                before = before_of(user, item)
                assert before is not None, "an item outside the window is trained on"
                terms.append(torch.nn.functional.softplus(-logit(user, item, before)))
                negatives = draws.negatives[at].tolist()
                terms += [torch.nn.functional.softplus(logit(user, n, before)) for n in negatives]
                touched[user] |= {item, *negatives}
                if task.model.window is not None:
                    own_items = shard.train.row(user).tolist()
                    touched[user] |= {i for i in own_items if before_of(user, i) is not None}
            total = torch.stack(terms).sum()
            loss += float(total.detach())
            if isinstance(plgc, PLGC):
                for user, seen in touched.items():
                    if seen:
                        distinct = torch.tensor(sorted(seen))
                        total = total + plgc.decorrelation * decorrelation(
                            plgc, shared["item"], vectors(user), frozen, distinct
                        )
            for step in steps:
                step.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            for step in steps:
                step.step()
    change = {
        n: (v.detach() - torch.tensor(params[n], dtype=kind)).numpy() for n, v in shared.items()
    }
    return change, {n: torch.stack(v).detach().numpy() for n, v in own.items()}, loss


def near(computed: FloatArray, expected: FloatArray, tolerance: float) -> None:
    """Equal to a tolerance that is relative to the largest value, or absolute below 1."""
    scale = max(float(np.abs(expected).max(initial=0)), 1.0)
    np.testing.assert_allclose(computed, expected, rtol=0, atol=tolerance * scale)


def with_times(shard: Shard, seed: int) -> Shard:
    times = np.random.default_rng(seed).permutation(len(shard.train.values))
    return replace(shard, timestamps=times.astype(np.float64))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=4, deadline=None)
@given(
    shard=federations(several=True),
    seed=st.integers(0, 99),
    epochs=st.integers(1, 2),
    batch_size=st.sampled_from(["full", 4]),
)
def test_the_kernel_is_the_loop(
    name: str, form: str, dtype: str, shard: Shard, seed: int, epochs: int, batch_size: Any
) -> None:
    model, score = MODELS[name]
    train = {
        "negatives": 2,
        "optimizers": rates(0.05, {"name": "sgd", "lr": 0.05}),
        "local_epochs": epochs,
        "batch_size": batch_size,
    }
    task = method_of(train, FORMS[form], model, dtype, seed)
    shard = with_times(shard, seed)
    params, local = initial_state(task, shard)
    update, after = train_clients(task, shard, params, local, 1)
    tolerance = 1e-10 if dtype == "float64" else 2e-5
    block = update.tables["item"]
    for client in range(min(shard.n_clients, 3)):
        rows = np.array([client])
        part = shard.take(rows)
        private = split_state(task, shard, local, rows)
        change, values, loss = slow_client(task, score, part, params, private)
        at = slice(*block.offsets[client : client + 2])
        near(block.values[at], change["item"][block.ids[at]], tolerance)
        others = np.delete(change["item"], block.ids[at], axis=0)
        assert not others.any(), "a row that no client is said to have touched has moved"
        for dense, value in update.dense.items():
            near(value[client], change[dense], tolerance)
        private_after = split_state(task, shard, after, rows)
        for own, value in values.items():
            near(private_after[own], value, tolerance)
        np.testing.assert_allclose(update.metrics["loss"][client], loss, rtol=1e-5)
