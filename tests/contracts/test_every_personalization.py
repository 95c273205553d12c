"""What every personalization must keep, with every form of its options."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedrec.errors import ConfigError
from fedrec.evaluation.scorer import UserScorer
from fedrec.models.base import Model
from fedrec.personalization import PERSONALIZATIONS
from fedrec.personalization.base import Personalization
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.plugins import table
from fedrec.training.clients import train_clients
from fedrec.types import ParamSpec
from tests.contracts.own_models import BiasedMF, SmallNet
from tests.planted import initial_state, method_of, rates, shard_of, train

SHARD = shard_of(9, [[0, 1, 4], [2, 3], [5], [1, 7]], [2, 1, 1])
FORMS: list[Personalization] = [
    *[personalization() for personalization in PERSONALIZATIONS.values()],
    *[
        PLGC(branch=branch, balance=balance, decorrelation=0.01)
        for branch in ("similarity", "table")
        for balance in ("alignment", "residual", "trace", "fixed")
    ],
    PLGC(branch="similarity", mode="decoupled", per="row", history_cap=1, extra_rows=2),
    PLGC(branch="table", view="single", decorrelation=0.1, persistence=1.0, extra_rows=2),
]
MODELS: list[Model | None] = [None, BiasedMF(), SmallNet()]

every_form = pytest.mark.parametrize(
    "form", FORMS, ids=lambda f: f"{type(f).__name__}-{FORMS.index(f)}"
)
every_model = pytest.mark.parametrize("model", MODELS, ids=["mf", "biased", "net"])


@every_form
@every_model
def test_it_trains_and_ranks_with_its_views(form: Personalization, model: Model | None) -> None:
    method = method_of({"optimizers": rates(0.05), "batch_size": 2}, form, model)
    params, _, local = train(method, SHARD, rounds=2)
    state = form.state(params["item"].shape[1])
    assert set(state) <= set(local)
    assert all(spec.scope == "private" for spec in state.values())
    assert all(np.isfinite(local[name]).all() for name in state)
    views = UserScorer(method, SHARD, params, local)(np.array([0, 1, 3]))
    assert set(views) == set(form.views)
    assert "mixed" in views
    for scores in views.values():
        assert scores.shape == (3, SHARD.n_items)
        assert bool(torch.isfinite(scores).all())


@every_form
def test_nothing_is_mutated(form: Personalization) -> None:
    method = method_of({"optimizers": rates(0.05)}, form)
    params, local = initial_state(method, SHARD)
    before = {name: value.tobytes() for name, value in {**params, **local}.items()}
    train_clients(method, SHARD, params, local, 1)
    score = UserScorer(method, SHARD, params, local)
    first = {view: scores.clone() for view, scores in score(np.arange(4)).items()}
    again = score(np.arange(4))
    assert all(torch.equal(first[view], again[view]) for view in first)
    assert {name: value.tobytes() for name, value in {**params, **local}.items()} == before


@every_form
def test_only_the_models_own_global_parameters_travel(form: Personalization) -> None:
    method = method_of({}, form, BiasedMF())
    assert set(method.globals()) == {"item", "item_bias", "constant"}
    assert not set(method.globals()) & set(method.locals())
    update, _ = train_clients(method, SHARD, *initial_state(method, SHARD), 1)
    assert set(update.tables) | set(update.dense) == set(method.globals())


def test_a_name_that_two_parts_use_is_an_error() -> None:
    class Twice(Personalization):
        def state(self, dim: int) -> dict[str, ParamSpec]:
            return {"user": ParamSpec("private", "user", (dim,))}

    with pytest.raises(ConfigError, match="both declare 'user'"):
        method_of({}, Twice()).specs()


def test_the_table_is_what_config_finds() -> None:
    assert table("personalization") == PERSONALIZATIONS
