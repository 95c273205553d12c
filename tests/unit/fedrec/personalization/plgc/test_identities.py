"""The options of PLGC at which it must be another method, bit for bit."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.evaluation.scorer import UserScorer
from fedrec.models.base import Model
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.training.clients import train_clients
from fedrec.types import Params, Shard
from tests.contracts.own_models import BiasedMF, Weighted
from tests.planted import federations, in_numba, initial_state, method_of, rates, shard_of, train

TRAINS = st.fixed_dictionaries(
    {
        "loss": st.sampled_from(["bce", "bpr"]),
        "reduction": st.sampled_from(["sum", "mean"]),
        "negatives": st.integers(1, 3),
        "local_epochs": st.integers(1, 2),
        "batch_size": st.sampled_from(["full", 2]),
        "optimizers": st.builds(
            rates, st.just(0.1), st.fixed_dictionaries({"name": st.sampled_from(["sgd", "adam"])})
        ),
        "weight_decay": st.sampled_from([0.0, 0.2]),
    }
)
MODELS = st.sampled_from([None, BiasedMF(), Weighted()])
BALANCES = ("alignment", "residual", "trace", "fixed")

TABLE_IS_BASE = {"branch": "table", "balance": "fixed", "value": 1.0, "persistence": 0.0}
KERNEL_IS_BASE = {
    "weight of zero": {"branch": "similarity", "balance": "fixed", "value": 0.0},
    **{f"no scale, {b}": {"branch": "similarity", "balance": b, "tau": 0.0} for b in BALANCES},
}


def same(a: Params, b: Params, names: set[str]) -> bool:
    return all(a[name].tobytes() == b[name].tobytes() for name in names)


def trajectories_agree(
    fields: dict[str, Any], shard: Shard, settings_of_train: dict[str, Any], model: Model | None
) -> None:
    base = method_of(settings_of_train, model=model)
    ours = method_of(settings_of_train, PLGC.model_validate(fields), model)
    expected, expected_updates, expected_local = train(base, shard, rounds=3)
    params, updates, local = train(ours, shard, rounds=3)
    assert same(params, expected, set(expected))
    assert same(local, expected_local, set(expected_local))
    for ours_of, base_of in zip(updates, expected_updates, strict=True):
        assert ours_of.metrics["loss"].tobytes() == base_of.metrics["loss"].tobytes()


@settings(max_examples=15, deadline=None)
@given(shard=federations(several=True), of_train=TRAINS, model=MODELS)
def test_table_with_the_whole_weight_and_no_memory(
    shard: Shard, of_train: dict[str, Any], model: Model | None
) -> None:
    trajectories_agree(TABLE_IS_BASE, shard, of_train, model)


@pytest.mark.parametrize("fields", KERNEL_IS_BASE.values(), ids=list(KERNEL_IS_BASE))
@settings(max_examples=6, deadline=None)
@given(shard=federations(several=True), of_train=TRAINS, model=MODELS)
def test_kernel_without_its_branch(
    fields: dict[str, Any], shard: Shard, of_train: dict[str, Any], model: Model | None
) -> None:
    trajectories_agree(fields, shard, of_train, model)


@pytest.mark.parametrize("balance", BALANCES)
@settings(max_examples=6, deadline=None)
@given(shard=federations(several=True), of_train=TRAINS, model=MODELS)
def test_decoupled_trains_the_base(
    balance: str, shard: Shard, of_train: dict[str, Any], model: Model | None
) -> None:
    fields = {"branch": "similarity", "mode": "decoupled", "balance": balance, "tau": 5.0}
    trajectories_agree(fields, shard, of_train, model)


IN_NUMBA = {
    **KERNEL_IS_BASE,
    **{
        f"decoupled, {b}": {"branch": "similarity", "mode": "decoupled", "balance": b, "tau": 5.0}
        for b in BALANCES
    },
}
IN_NUMBA = {k: v for k, v in IN_NUMBA.items() if in_numba(PLGC.model_validate(v))}


@pytest.mark.parametrize("fields", IN_NUMBA.values(), ids=list(IN_NUMBA))
@settings(max_examples=6, deadline=None)
@given(shard=federations(), of_train=TRAINS)
def test_in_numba_too(fields: dict[str, Any], shard: Shard, of_train: dict[str, Any]) -> None:
    pytest.importorskip("numba", reason="needs the extra 'sim'")
    trajectories_agree(fields, shard, of_train | {"backend": "numba", "loss": "bce"}, None)


@settings(max_examples=15, deadline=None)
@given(shard=federations(several=True), of_train=TRAINS, model=MODELS)
def test_table_without_weight_uploads_no_item_row(
    shard: Shard, of_train: dict[str, Any], model: Model | None
) -> None:
    fields = {"branch": "table", "balance": "fixed", "value": 0.0}
    method = method_of(of_train, PLGC.model_validate(fields), model)
    params, local = initial_state(method, shard)
    update, after = train_clients(method, shard, params, local, 1)
    assert not update.tables["item"].values.any()
    assert not after["residual"].any()
    assert not np.array_equal(after["user"], local["user"])


@pytest.mark.parametrize("balance", BALANCES[:3])
@settings(max_examples=8, deadline=None)
@given(shard=federations(several=True))
def test_equal_tables_share_alike(balance: str, shard: Shard) -> None:
    fields = {"branch": "table", "balance": balance, "ema": 0.0, "initial": 0.9}
    # A step too small to change a bit leaves both tables equal.
    method = method_of({"optimizers": rates(1e-30)}, PLGC.model_validate(fields))
    params, local = initial_state(method, shard)
    update, after = train_clients(method, shard, params, local, 1)
    assert not update.tables["item"].values.any()
    assert (after["lambda"] == 0.5).all()


@pytest.mark.parametrize("branch", ["table", "similarity"])
@pytest.mark.parametrize("balance", BALANCES)
@settings(max_examples=6, deadline=None)
@given(shard=federations(several=True), of_train=TRAINS, model=MODELS)
def test_a_weight_is_a_share(
    branch: str, balance: str, shard: Shard, of_train: dict[str, Any], model: Model | None
) -> None:
    fields = {"branch": branch, "balance": balance, "decorrelation": 0.01, "ema": 0.5}
    _, _, state = train(method_of(of_train, PLGC.model_validate(fields), model), shard, rounds=2)
    assert ((state["lambda"] >= 0) & (state["lambda"] <= 1)).all()


@pytest.mark.parametrize("branch", ["table", "similarity"])
@settings(max_examples=8, deadline=None)
@given(shard=federations(several=True), of_train=TRAINS)
def test_nothing_reaches_the_frozen_table(
    branch: str, shard: Shard, of_train: dict[str, Any]
) -> None:
    fields = {"branch": branch, "decorrelation": 0.1, "extra_rows": 1}
    method = method_of(of_train, PLGC.model_validate(fields))
    params, state = initial_state(method, shard)
    before = {name: value.tobytes() for name, value in {**params, **state}.items()}
    train_clients(method, shard, params, state, 1)
    assert {name: value.tobytes() for name, value in {**params, **state}.items()} == before


@settings(max_examples=15, deadline=None)
@given(shard=federations(several=True), tau=st.floats(0.1, 5.0))
def test_the_three_scores_of_the_kernel_form(shard: Shard, tau: float) -> None:
    fields = {"branch": "similarity", "balance": "alignment", "tau": tau}
    method = method_of({"optimizers": rates(0.1)}, PLGC.model_validate(fields))
    params, _, local = train(method, shard)
    users = np.arange(shard.n_users)
    views = UserScorer(method, shard, params, local)(users)
    base = UserScorer(method_of(), shard, params, {"user": local["user"]})(users)["mixed"]
    assert torch.equal(views["global"], base)
    share = torch.from_numpy(local["lambda"])[:, None]
    torch.testing.assert_close(views["mixed"], base + share * views["local"])
    assert (views["local"] >= 0).all()


@settings(max_examples=15, deadline=None)
@given(shard=federations(several=True), value=st.floats(0.0, 1.0))
def test_the_three_scores_of_the_table_form(shard: Shard, value: float) -> None:
    fields = {"branch": "table", "balance": "fixed", "value": value, "persistence": 1.0}
    method = method_of({"optimizers": rates(0.1)}, PLGC.model_validate(fields))
    params, _, local = train(method, shard)
    views = UserScorer(method, shard, params, local)(np.arange(shard.n_users))
    plain = local["user"] @ params["item"].T
    np.testing.assert_allclose(views["global"], plain, atol=1e-5)
    owner = shard.client_of_user()
    for user in range(shard.n_users):
        rows = np.flatnonzero(owner == owner[user])
        positives = sorted({item for u in rows for item in shard.train.row(int(u)).tolist()})
        others = np.setdiff1d(np.arange(shard.n_items), positives)
        for view in ("mixed", "local"):
            assert np.array_equal(views[view][user][others], views["global"][user][others])
        gap = (views["local"] - views["global"])[user].numpy()
        mixed = (views["mixed"] - views["global"])[user].numpy()
        np.testing.assert_allclose(mixed, value * gap, atol=2e-5)


def test_row_weights_leave_unknown_items_alone() -> None:
    shard = shard_of(8, [[0, 1, 2], [2, 3]])
    fields = {"branch": "similarity", "balance": "fixed", "value": 1.0, "per": "row", "tau": 3.0}
    method = method_of({"optimizers": rates(0.1)}, PLGC.model_validate(fields))
    params, _, local = train(method, shard)
    views = UserScorer(method, shard, params, local)(np.arange(2))
    for user in range(2):
        positives = shard.train.row(user)
        unknown = np.setdiff1d(np.arange(8), positives)
        assert np.array_equal(views["mixed"][user][unknown], views["global"][user][unknown])
        added = views["global"][user] + views["local"][user]
        np.testing.assert_allclose(views["mixed"][user][positives], added[positives], rtol=1e-6)


@settings(max_examples=10, deadline=None)
@given(shard=federations(), cap=st.integers(1, 5))
def test_a_cap_keeps_that_many_positives_of_each(shard: Shard, cap: int) -> None:
    plgc = PLGC(history_cap=cap)
    history = plgc.history(shard, seed=3)
    assert np.array_equal(history.lengths, np.minimum(shard.train.lengths, cap))
    for user in range(shard.n_users):
        capped = history.row(user).tolist()
        assert capped == sorted(capped)
        assert set(capped) <= set(shard.train.row(user).tolist())
