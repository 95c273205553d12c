"""What every client model must keep besides the contracts that ship."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedrec.baselines import BASELINES
from fedrec.baselines.base import Baseline
from fedrec.evaluation.scorer import UserScorer
from fedrec.models import MODELS
from fedrec.models.base import Batch, History, Model
from fedrec.models.module import ModelParams
from fedrec.plugins import table
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, Params, Shard
from tests.contracts import own_models
from tests.planted import method_of, rates, shard_of, train
from tests.unit.fedrec.models.multimodal.given import random_catalogue

# Of texts, with contracts of their own in test_language_models.
TEXT = ("llm_prompt", "llm_text")
SHIPPED: list[Model] = [m() for name, m in MODELS.items() if name not in TEXT]
OWN: list[Model] = [getattr(own_models, name)() for name in own_models.__all__]
SHARD = replace(
    shard_of(9, [[0, 1, 4], [2, 3], [5], [1, 7]], [2, 1, 1]),
    timestamps=np.array([5.0, 3.0, 4.0, 1.0, 0.0, 2.0, 7.0, 6.0]),
)

every_model = pytest.mark.parametrize("model", SHIPPED + OWN, ids=lambda m: type(m).__name__)


def task(model: Model) -> ClientTask:
    train = {"optimizers": rates(0.1), "weight_decay": 0.1}
    return method_of(train, model=model, catalogue=random_catalogue(SHARD.n_items))


@every_model
def test_the_loss_falls_and_the_catalogue_is_all_pairs(model: Model) -> None:
    params, updates, local = train(task(model), SHARD, rounds=8)
    losses = [update.metrics["loss"].sum() for update in updates]
    assert losses[-1] < losses[0]
    scores = UserScorer(task(model), SHARD, params, local)(np.arange(SHARD.n_users))["mixed"]
    np.testing.assert_allclose(
        scores, by_pairs(task(model), SHARD, params, local), rtol=1e-4, atol=1e-6
    )


def by_pairs(task: ClientTask, shard: Shard, params: Params, local: Params) -> torch.Tensor:
    """All scores, one pair at a time."""
    model, client = task.model, shard.client_of_user()
    scores = torch.zeros(shard.n_users, shard.n_items)
    for user in range(shard.n_users):
        for item in range(shard.n_items):
            rows = {}
            for name, spec in task.specs().items():
                flat = model.execution == "flat"
                if spec.scope == "frozen":
                    rows[name] = task.frozen_tables[name][item : item + 1]
                elif spec.axis == "item":
                    rows[name] = torch.tensor(params[name][item : item + 1])
                elif (spec.scope, spec.axis) == ("shared", None):
                    value = torch.tensor(params[name])
                    rows[name] = value[None] if flat else value
                elif spec.axis == "user":
                    rows[name] = torch.tensor(local[name][user : user + 1])
                else:
                    value = torch.tensor(local[name][client[user]])
                    rows[name] = value[None] if flat else value
            pair = Batch(torch.tensor([user]), torch.tensor([item]))
            if model.window is not None:
                pair = with_history(pair, model.window, shard, user, params["item"])
            given = ModelParams(rows, task.network)
            vectors = model.item_vectors(given, pair.items)
            scores[user, item] = model.score(given, pair, vectors)[0]
    return scores


def with_history(pair: Batch, window: int, shard: Shard, user: int, table: FloatArray) -> Batch:
    """The pair with what its user took last, oldest first; times are distinct."""
    assert shard.timestamps is not None
    own = slice(shard.train.offsets[user], shard.train.offsets[user + 1])
    items = shard.train.values[own][np.argsort(shard.timestamps[own])][-(window - 1) :]
    rows = torch.from_numpy(items)[None]
    history = History(torch.tensor(table)[rows], torch.tensor([len(items)]), rows)
    return replace(
        pair, users=torch.tensor([0]), context=torch.tensor([len(items)]), history=history
    )


def test_every_entry_of_the_table_is_a_model_or_a_baseline() -> None:
    assert table("models") == {**MODELS, **BASELINES}
    assert all(issubclass(model, Model) for model in MODELS.values())
    assert all(issubclass(model, Baseline) for model in BASELINES.values())
