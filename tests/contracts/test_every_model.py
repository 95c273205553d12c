"""What every client model must keep, shipped or a user's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedrec.baselines import BASELINES
from fedrec.baselines.base import Baseline
from fedrec.compute.batch import Tensors
from fedrec.evaluation.scorer import UserScorer
from fedrec.models import MODELS
from fedrec.models.base import History, Model, Pairs
from fedrec.plugins import lookup, name_of, table
from fedrec.training.clients import train_clients
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, Params, Shard
from tests.contracts import own_models
from tests.planted import initial_state, method_of, rates, shard_of, train

SHIPPED: list[Model] = [m() for m in MODELS.values() if issubclass(m, Model)]
OWN: list[Model] = [getattr(own_models, name)() for name in own_models.__all__]
SHARD = replace(
    shard_of(9, [[0, 1, 4], [2, 3], [5], [1, 7]], [2, 1, 1]),
    timestamps=np.array([5.0, 3.0, 4.0, 1.0, 0.0, 2.0, 7.0, 6.0]),
)

every_model = pytest.mark.parametrize("model", SHIPPED + OWN, ids=lambda m: type(m).__name__)


def task(model: Model) -> ClientTask:
    return method_of({"optimizers": rates(0.1), "weight_decay": 0.1}, model=model)


def gathered(model: Model, n_pairs: int) -> tuple[dict[str, torch.Tensor], Pairs]:
    """Random parameters for the pairs of one client, as the model's execution wants them."""
    rng = torch.Generator().manual_seed(0)
    params = {}
    for name, spec in model.params().items():
        dense = (spec.scope, spec.axis) == ("shared", None) or spec.axis == "client"
        one = model.execution != "flat" and dense
        shape = spec.shape if one else (n_pairs, *spec.shape)
        params[name] = torch.randn(shape, generator=rng)
    pairs = Pairs(torch.zeros(n_pairs, dtype=torch.int64), torch.arange(n_pairs))
    if model.window is None:
        return params, pairs
    vectors = torch.randn((1, 4, *model.params()["item"].shape), generator=rng)
    history = History(vectors, torch.tensor([4]))
    return params, replace(pairs, context=torch.arange(n_pairs) % 5, history=history)


@every_model
def test_params_are_well_formed(model: Model) -> None:
    specs = model.params()
    assert (specs["item"].scope, specs["item"].axis) == ("shared", "item")
    assert specs == model.params()
    for name, spec in specs.items():
        assert "/" not in name
        assert spec.init_std >= 0
        assert all(size >= 1 for size in spec.shape)


@every_model
def test_it_is_found_by_its_name(model: Model) -> None:
    assert lookup("models", name_of("models", model)) is type(model)


@every_model
def test_scores_and_features_have_a_row_per_pair(model: Model) -> None:
    params, pairs = gathered(model, 5)
    score, features = model.score(params, pairs), model.features(params, pairs)
    assert score.shape == (5,)
    assert features.ndim == 2
    assert len(features) == 5
    assert bool(torch.isfinite(score).all())


@every_model
def test_a_pair_is_scored_from_its_own_rows(model: Model) -> None:
    params, pairs = gathered(model, 70)
    whole = model.score(params, pairs)
    specs = model.params()
    one: Tensors = {
        name: value if value.shape == specs[name].shape else value[33:34]
        for name, value in params.items()
    }
    here = replace(pairs, users=pairs.users[33:34], items=pairs.items[33:34])
    if pairs.context is not None:
        here = replace(here, context=pairs.context[33:34])
    alone = model.score(one, here)
    if model.execution == "flat":
        assert alone.numpy().tobytes() == whole[33:34].numpy().tobytes()
    torch.testing.assert_close(alone, whole[33:34])


@every_model
def test_it_trains_every_parameter_and_stays_finite(model: Model) -> None:
    before, local = initial_state(task(model), SHARD)
    after, updates, state = train(task(model), SHARD, rounds=8)
    for name, value in before.items():
        assert np.isfinite(after[name]).all()
        assert not np.array_equal(after[name], value), f"{name} does not move"
        assert after[name].shape == value.shape
    for name, value in local.items():
        assert np.isfinite(state[name]).all()
        assert state[name].shape == value.shape
        assert state[name].dtype == np.float32
    losses = [update.metrics["loss"].sum() for update in updates]
    assert losses[-1] < losses[0]


@every_model
def test_the_catalogue_is_all_pairs(model: Model) -> None:
    params, _, local = train(task(model), SHARD)
    users = np.arange(SHARD.n_users)
    scores = UserScorer(task(model), SHARD, params, local)(users)["mixed"]
    assert scores.shape == (SHARD.n_users, SHARD.n_items)
    assert bool(torch.isfinite(scores).all())
    np.testing.assert_allclose(scores, by_pairs(model, SHARD, params, local), rtol=1e-4, atol=1e-6)


def by_pairs(model: Model, shard: Shard, params: Params, local: Params) -> torch.Tensor:
    """All scores, one pair at a time."""
    specs = model.params()
    client = shard.client_of_user()
    scores = torch.zeros(shard.n_users, shard.n_items)
    for user in range(shard.n_users):
        for item in range(shard.n_items):
            rows = {}
            for name, spec in specs.items():
                flat = model.execution == "flat"
                if spec.axis == "item":
                    rows[name] = torch.tensor(params[name][item : item + 1])
                elif (spec.scope, spec.axis) == ("shared", None):
                    value = torch.tensor(params[name])
                    rows[name] = value[None] if flat else value
                elif spec.axis == "user":
                    rows[name] = torch.tensor(local[name][user : user + 1])
                else:
                    value = torch.tensor(local[name][client[user]])
                    rows[name] = value[None] if flat else value
            pair = Pairs(torch.tensor([user]), torch.tensor([item]))
            if model.window is not None:
                pair = with_history(pair, model.window, shard, user, params["item"])
            scores[user, item] = model.score(rows, pair)[0]
    return scores


def with_history(pair: Pairs, window: int, shard: Shard, user: int, table: FloatArray) -> Pairs:
    """The pair with what its user took last, oldest first; times are distinct."""
    assert shard.timestamps is not None
    own = slice(shard.train.offsets[user], shard.train.offsets[user + 1])
    items = shard.train.values[own][np.argsort(shard.timestamps[own])][-(window - 1) :]
    history = History(torch.tensor(table[items])[None], torch.tensor([len(items)]))
    return replace(
        pair, users=torch.tensor([0]), context=torch.tensor([len(items)]), history=history
    )


def test_the_loop_is_the_flat_form() -> None:
    flat, loop = (
        method_of({"optimizers": rates(0.1), "local_epochs": 2, "batch_size": 2}, model=model)
        for model in (
            SHIPPED[0].model_copy(update={"embedding_dim": 5, "init_std": 0.5}),
            own_models.LoopMF(embedding_dim=5, init_std=0.5),
        )
    )
    params, local = initial_state(flat, SHARD)
    one, mine = train_clients(flat, SHARD, params, local, 1)
    other, theirs = train_clients(loop, SHARD, params, local, 1)
    np.testing.assert_allclose(one.tables["item"].values, other.tables["item"].values, atol=1e-6)
    np.testing.assert_allclose(mine["user"], theirs["user"], atol=1e-6)
    np.testing.assert_allclose(one.metrics["loss"], other.metrics["loss"], rtol=1e-6)
    users = np.arange(SHARD.n_users)
    scores = [UserScorer(m, SHARD, params, mine)(users)["mixed"] for m in (flat, loop)]
    torch.testing.assert_close(*scores)


def test_every_entry_of_the_table_is_a_model_or_a_baseline() -> None:
    assert table("models") == {**MODELS, **BASELINES}
    assert all(issubclass(model, Model) for model in MODELS.values())
    assert all(issubclass(model, Baseline) for model in BASELINES.values())
