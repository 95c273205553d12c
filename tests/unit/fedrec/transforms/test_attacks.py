"""What attackers send: closed forms on small pools, by the definitions of the papers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm as normal

from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError
from fedrec.ragged import Ragged
from fedrec.testing.trial import as_bytes, small_split
from fedrec.transforms.attacks import ATTACKS
from fedrec.transforms.attacks.adam import fitted
from fedrec.transforms.attacks.alie import Alie, deviations
from fedrec.transforms.attacks.base import Attack
from fedrec.transforms.attacks.fedrecattack import FedRecAttack, promotion_gradient
from fedrec.transforms.attacks.gaussian import GaussianAttack
from fedrec.transforms.attacks.ipm import Ipm
from fedrec.transforms.attacks.pipattack import (
    PipAttack,
    cross_entropy_gradient,
    popularity_gradient,
)
from fedrec.transforms.attacks.scaling import Scaling
from fedrec.transforms.attacks.sign_flip import SignFlip
from fedrec.transforms.attacks.ua_fedrec import UaFedRec, similarity_step
from fedrec.transforms.pool import row_norms
from fedrec.types import FloatArray, ParamSpec, State
from tests.unit.fedrec.transforms.pools import (
    N_CLIENTS,
    N_ITEMS,
    PARAMS,
    D,
    context_of,
    of_item,
    pool_of,
    pools,
)

TARGETS = (2, 9)
POOL = pool_of([[0, 1, 2, 5], [1, 2, 9], [2, 5, 7, 9]])


def sent(attack: Attack, pool: UpdateBatch, targets: tuple[int, ...] = ()) -> UpdateBatch:
    return attack.sent(state_of(attack, targets), pool, PARAMS, context_of(targets))[1]


def state_of(attack: Attack, targets: tuple[int, ...] = ()) -> State:
    """What attackers know of the data of a small federation, cut to the items of the pools."""
    split = small_split()
    train = split.train.where(split.train.values < N_ITEMS)
    honest = replace(split, n_items=N_ITEMS, train=train, timestamps=None, ratings=None)
    return attack.init(honest, context_of(targets, round=0))


def close(value: FloatArray, expected: FloatArray) -> None:
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


RULES: dict[str, tuple[Attack, Any]] = {
    "sign flip": (SignFlip(), lambda own, f: -own),
    "scaling": (Scaling(factor=7.0), lambda own, f: 7 * own),
    "model replacement": (Scaling(), lambda own, f: N_CLIENTS / f * own),
    "alie": (Alie(z=0.3), lambda own, f: own * 0 + own.mean(0) - 0.3 * own.std(0)),
    "ipm": (Ipm(epsilon=0.5), lambda own, f: own * 0 - 0.5 * own.mean(0)),
}


@pytest.mark.parametrize("rule", RULES)
@given(pool=pools())
@settings(max_examples=20)
def test_a_rule_is_that_of_who_touched_the_row(rule: str, pool: UpdateBatch) -> None:
    attack, expected = RULES[rule]
    update, f = sent(attack, pool), len(pool.client_ids)
    assert np.array_equal(update.tables["item"].ids, pool.tables["item"].ids)
    for item in range(N_ITEMS):
        own = of_item(pool, item)
        if len(own):
            close(of_item(update, item), expected(own, f))
    close(update.dense["head"], expected(pool.dense["head"].astype(np.float64), f))


@given(st.integers(3, 200), st.data())
def test_z_of_alie_is_the_papers(clients: int, data: st.DataObject) -> None:
    attackers = data.draw(st.integers(1, (clients - 1) // 2))
    supporters = clients // 2 + 1 - attackers
    share = (clients - attackers - supporters) / (clients - attackers)
    assert deviations(clients, attackers) == pytest.approx(normal.ppf(share))


def test_alie_goes_one_deviation_at_least() -> None:
    """Few attackers have a z near zero, or a negative one, which would help the honest."""
    assert deviations(50, 1) < 0 < deviations(50, 5) < 1 < deviations(50, 24)
    assert deviations(4, 4) == deviations(4, 3) == -np.inf
    assert as_bytes(sent(Alie(), POOL)) == as_bytes(sent(Alie(z=1.0), POOL))


@given(st.integers(2, 50), st.data())
def test_ipm_turns_the_sum_where_epsilon_says_so(clients: int, data: st.DataObject) -> None:
    attackers = data.draw(st.integers(1, clients - 1))
    bound = (clients - attackers) / attackers
    own = np.ones((1, D), np.float32)
    for epsilon, sign in ((0.9 * bound, 1), (1.1 * bound, -1)):
        pool = pool_of([[0]] * min(attackers, 3))
        block = replace(pool.tables["item"], values=own.repeat(len(pool.client_ids), 0))
        pool = replace(pool, tables={"item": block})
        of_attacker = of_item(sent(Ipm(epsilon=epsilon), pool), 0)[0]
        total = (clients - attackers) * own[0] + attackers * of_attacker
        assert (np.sign(total) == sign).all()


def test_noise_has_the_size_of_honest_rows() -> None:
    rows = [[0, 1]] * 400
    pool = pool_of(rows)
    scale = np.where(pool.tables["item"].ids == 0, 1.0, 10.0)[:, None].astype(np.float32)
    block = replace(pool.tables["item"], values=pool.tables["item"].values * scale)
    update = sent(GaussianAttack(factor=2.0), replace(pool, tables={"item": block}))
    for item, size in ((0, 2.0), (1, 20.0)):
        noise = of_item(update, item)
        assert noise.std() == pytest.approx(size, rel=0.1)
        assert abs(noise.mean()) < 0.2 * size
        assert not np.allclose(noise[0], noise[1])


# What any attack keeps ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTACKS)
@given(pool=pools())
@settings(max_examples=10)
def test_rows_stay_below_the_limit(name: str, pool: UpdateBatch) -> None:
    kind = ATTACKS[name]
    options = {"rows": 6, "public": 0.5} if name == "fedrecattack" else {}
    attack = kind.model_validate({"row_limit": 0.5, "share": 0.3, **options})
    norms = row_norms(pool.tables["item"])
    update = sent(attack, pool, TARGETS)
    block = update.tables["item"]
    assert (row_norms(block) <= 0.5 * norms.mean() * (1 + 1e-5)).all() if len(norms) else True
    assert np.isfinite(block.values).all()
    assert block.values.dtype == np.float32
    for start, end in zip(block.offsets[:-1], block.offsets[1:], strict=True):
        assert (np.diff(block.ids[start:end]) > 0).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_the_same_round_gives_the_same_bits(name: str) -> None:
    options = {"rows": 6, "public": 0.5} if name == "fedrecattack" else {}
    attack = ATTACKS[name].model_validate({"share": 0.3, **options})
    before = as_bytes(POOL)
    assert as_bytes(sent(attack, POOL, TARGETS)) == as_bytes(sent(attack, POOL, TARGETS))
    assert as_bytes(POOL) == before


@given(st.integers(2, 500), st.floats(0.01, 0.9), st.integers(0, 3))
def test_attackers_are_a_share_of_honest_clients(clients: int, share: float, seed: int) -> None:
    converted, added = SignFlip(share=share), ATTACKS["random_shilling"](share=share)
    context = RoundContext(seed, 5, clients, N_ITEMS)
    attackers = converted.attackers(context)
    assert len(attackers) == max(1, round(share * clients))
    assert (np.diff(attackers) > 0).all()
    assert np.array_equal(attackers, converted.attackers(replace(context, round=9)))
    more = added.count(clients)
    last = added.attackers(RoundContext(seed, 0, clients + more, N_ITEMS))
    assert np.array_equal(last, np.arange(clients, clients + more))


def test_other_seeds_convert_others() -> None:
    chosen = {tuple(SignFlip().attackers(RoundContext(s, 0, 100, 9)).tolist()) for s in range(5)}
    assert len(chosen) == 5


class Forgetful(Attack):
    def rewrite(self, state: State, pool: UpdateBatch, *_: Any) -> tuple[State, UpdateBatch]:
        return state, replace(pool, client_ids=pool.client_ids[1:])


def test_an_attack_answers_for_each_attacker() -> None:
    with pytest.raises(
        ConfigError, match="attack Forgetful: rewrite returned updates of other clients"
    ):
        sent(Forgetful(), POOL)


@pytest.mark.parametrize("name", ["pipattack", "fedrecattack"])
def test_a_model_without_item_factors_is_refused(name: str) -> None:
    attack = ATTACKS[name]()
    attack.check({"item": ParamSpec("shared", "item", (4,))})
    for specs in (
        {},
        {"item": ParamSpec("shared", "item", ())},
        {"item": ParamSpec("shared", None, (4,))},
    ):
        with pytest.raises(ConfigError, match="item table 'item'"):
            attack.check(specs)


# The gradients of attacks on the item table -------------------------------------------------------


def gradient(loss: torch.Tensor, of: torch.Tensor) -> FloatArray:
    return np.asarray(torch.autograd.grad(loss, of)[0])


def test_ua_fedrec_steps_along_its_objective() -> None:
    items = np.array([0, 3, 4, 11])
    table = PARAMS["item"].astype(np.float64)
    values = torch.tensor(table, requires_grad=True)
    likeness = table @ table.T
    np.fill_diagonal(likeness, np.nan)
    near, far = (
        values[chosen] for chosen in (np.nanargmax(likeness, 1), np.nanargmin(likeness, 1))
    )
    distances = ((values - near) ** 2).sum(1) - ((values - far) ** 2).sum(1)
    close(similarity_step(PARAMS["item"], items), gradient(distances[items].sum(), values))


def test_ua_fedrec_sends_what_looks_large_and_honest() -> None:
    norms = row_norms(POOL.tables["item"])
    update = sent(UaFedRec(), POOL)
    close(row_norms(update.tables["item"]), np.full(len(norms), norms.mean() + 3 * norms.std()))
    assert update.weight == pytest.approx(POOL.weight.mean() + 3 * POOL.weight.std())
    head = POOL.dense["head"].astype(np.float64)
    mean, std = head.mean(0), head.std(0)
    close(update.dense["head"], 0 * head + mean - 3 * np.sign(mean) * std)


def test_the_gradient_of_fedrecattack_is_its_losss() -> None:
    rng = np.random.default_rng(0)
    vectors, table = rng.normal(size=(7, D)), rng.normal(size=(N_ITEMS, D))
    known = [[0, 2], [1], [2, 9], [3], [4, 5], [9], [6]]
    public = Ragged(np.cumsum([0, *map(len, known)]), np.concatenate(known))
    values, loss, k = torch.tensor(table, requires_grad=True), torch.zeros(()), 3
    scores = torch.tensor(vectors) @ values.T
    for user, items in enumerate(known):
        others = [item for item in range(N_ITEMS) if item not in {*items, *TARGETS}]
        last = scores[user, others].sort(descending=True).values[k - 1]
        for target in set(TARGETS) - {*items}:
            x = last - scores[user, target]
            loss = loss + (x if x > 0 else torch.exp(x) - 1)
    expected = gradient(loss, values)
    close(promotion_gradient(table, vectors, public, np.array(TARGETS), k), expected)


def test_attackers_share_the_gradient_of_fedrecattack() -> None:
    """What the first leaves over its limit is what the next send; decoys stay the same."""
    pool = pool_of([[0, 1], [2, 3], [4, 5], [6]])
    attack = FedRecAttack(rows=6, public=0.5, row_limit=1e-3, share=0.3)
    begun, context = state_of(attack, TARGETS), context_of(TARGETS)
    state, update = attack.rewrite(begun, pool, PARAMS, context)
    block = update.tables["item"]
    rows = block.ids.reshape(4, 6)
    assert all(set(TARGETS) <= {*row} for row in rows.tolist())
    public = Ragged(state.arrays["offsets"], state.arrays["items"])
    table, vectors = PARAMS["item"].astype(np.float64), state.arrays["vectors"]
    full = -promotion_gradient(table, vectors, public, np.array(TARGETS), attack.list_length)
    total = np.zeros_like(full)
    np.add.at(total, block.ids, block.values)
    for target in TARGETS:
        own = of_item(update, target)
        cosines = own @ full[target] / np.linalg.norm(own, axis=1) / np.linalg.norm(full[target])
        close(cosines, np.ones(4))
    first = FedRecAttack(rows=6, public=0.5, row_limit=None, share=0.3)
    _, unbounded = first.rewrite(begun, pool, PARAMS, context)
    close(of_item(unbounded, TARGETS[0]).sum(0), full[TARGETS[0]])
    assert not of_item(unbounded, TARGETS[0])[1:].any()
    _, later = attack.rewrite(state, pool, PARAMS, replace(context, round=3))
    assert np.array_equal(later.tables["item"].ids, block.ids)


def test_the_gradients_of_pipattack_are_those_of_the_regression() -> None:
    rng = np.random.default_rng(0)
    inputs = np.concatenate([rng.normal(size=(N_ITEMS, D)), np.ones((N_ITEMS, 1))], axis=1)
    weights, classes = rng.normal(size=(D + 1, 3)), rng.integers(0, 3, N_ITEMS)
    x, w = (torch.tensor(each, requires_grad=True) for each in (inputs, weights))
    loss = torch.nn.functional.cross_entropy(x @ w, torch.tensor(classes))
    close(cross_entropy_gradient(weights, inputs, classes), gradient(loss, w))
    likely = torch.log_softmax(x @ w, 1)[:, 0].sum()
    close(popularity_gradient(weights, inputs), gradient(likely, x)[:, :-1])


def test_pipattack_stays_near_honest_updates() -> None:
    attack = PipAttack(distance=2.0)
    state = state_of(attack, TARGETS)
    assert np.bincount(state.arrays["classes"]).tolist() == [1, 5, 6]
    change = sent(attack, POOL, TARGETS).tables["item"].values - POOL.tables["item"].values
    is_target = np.isin(POOL.tables["item"].ids, TARGETS)
    expected = 2 * row_norms(POOL.tables["item"]).mean() * is_target
    close(np.linalg.norm(change, axis=1), expected)


def test_adam_is_torchs() -> None:
    start = np.random.default_rng(0).normal(size=(4, 3))
    values = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.Adam([values], lr=0.1)
    for _ in range(7):
        optimizer.zero_grad()
        torch.autograd.backward((values**4).sum())
        optimizer.step()
    memory: dict[str, FloatArray] = {}
    ours = start
    for steps in (3, 4):
        ours, memory = fitted(ours, memory, lambda v, _: 4 * v**3, steps, 0.1)
    close(ours, values.detach().numpy())
