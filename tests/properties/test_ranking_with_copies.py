"""To rank with copies is to rank with the models that are made of them, client by client."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedrec.evaluation.scorer import UserScorer
from fedrec.models.base import Model
from fedrec.models.neumf import NeuMF
from fedrec.models.sasrec import SASRec
from fedrec.personalization.base import NoPersonalization, Personalization
from fedrec.personalization.ditto import Ditto
from fedrec.personalization.fedrep import FedRep
from fedrec.personalization.interpolation import Interpolation
from fedrec.testing.trial import TRAIN, Probe, Trial, small_catalogue, small_split
from fedrec.training.clients import train_clients
from fedrec.training.task import ClientTask
from fedrec.types import Params
from tests.contracts.content_models import Content, OwnLoss, TextAlone, TwoLayers

MODELS: list[Model] = [
    Probe(),
    NeuMF(embedding_dim=3, layers=(4,), init_std=0.5),
    SASRec(embedding_dim=4, max_len=5, heads=2, init_std=0.5),
    Content(),
    OwnLoss(),
    TextAlone(),
    TwoLayers(),
]
FORMS: list[Personalization] = [Ditto(pull=0.5), Interpolation(alpha=0.3, alpha_lr=0.02)]
HEADS: list[tuple[Model, tuple[str, ...]]] = [
    (Probe(), ("probe_scale", "user")),
    (TwoLayers(), ("2.weight", "2.bias")),
    (TextAlone(), ("0.weight", "0.bias", "user")),
    (Content(), ("projection",)),
    (SASRec(embedding_dim=4, max_len=5, heads=2, init_std=0.5), ("2.weight", "2.bias")),
]


def trained(model: Model, form: Personalization) -> Trial:
    """Clients after two rounds in which the server took up their changes."""
    task = ClientTask(model, form, TRAIN, 0, "clean", "float64", catalogue=small_catalogue())
    split = small_split()
    trial = Trial.before(task, split.shard(np.arange(split.n_clients)))
    for number in (1, 2):
        update, private = train_clients(task, trial.shard, trial.params, trial.private, number)
        params = {name: np.array(value, np.float64) for name, value in trial.params.items()}
        for name, block in update.tables.items():
            np.add.at(params[name], block.ids, block.values / 10)
        for name, change in update.dense.items():
            params[name] += change.mean(0)
        trial = replace(trial, params=params, private=private)
    return trial


def of_client(trial: Trial, row: int, view: str) -> tuple[Trial, Params, Params]:
    """A client, and the shared and private values of a model that nobody personalizes."""
    alone, task = trial.take(np.array([row])), trial.task
    params, private = dict(alone.params), dict(alone.private)
    (positives,) = [np.unique(alone.shard.train.values)]
    share = float(private["alpha"][0]) if view == "mixed" and "alpha" in private else 1.0
    for copy, name in task.copies().items():
        own = alone.private[copy]
        if task.specs()[copy].axis == "positive":
            rows = params[name][positives]
            params[name] = params[name].copy()
            params[name][positives] = share * own + (1 - share) * rows
        elif name in params:
            params[name] = share * own[0] + (1 - share) * params[name]
        else:
            private[name] = share * own + (1 - share) * private[name]
    for name in set(private) & set(
        replace(task, personalization=NoPersonalization()).shared_specs()
    ):
        params[name] = private.pop(name)[0]
    return alone, params, private


def compare(trial: Trial, views: tuple[str, ...]) -> None:
    scores: Any = UserScorer(trial.task, trial.shard, trial.params, trial.private)(
        np.arange(trial.shard.n_users)
    )
    plain = replace(trial.task, personalization=NoPersonalization())
    for view in views:
        for row in range(trial.shard.n_clients):
            alone, params, private = of_client(trial, row, view)
            expected = UserScorer(plain, alone.shard, params, private)(
                np.arange(alone.shard.n_users)
            )
            users = slice(*trial.shard.client_offsets[row : row + 2])
            np.testing.assert_allclose(
                scores[view][users], expected["mixed"], rtol=1e-9, atol=1e-12
            )


@pytest.mark.parametrize("form", FORMS, ids=lambda form: type(form).__name__)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_a_copy_stands_in_the_place_of_its_parameter(model: Model, form: Personalization) -> None:
    trial = trained(model, form)
    compare(trial, ("mixed", "local") if isinstance(form, Interpolation) else ("mixed",))
    # Without copies it is the shared model.
    everybody = np.arange(trial.shard.n_users)
    plain = replace(trial.task, personalization=NoPersonalization())
    expected = UserScorer(plain, trial.shard, trial.params, trial.private)(everybody)
    scorer = UserScorer(trial.task, trial.shard, trial.params, trial.private)
    np.testing.assert_array_equal(scorer(everybody)["global"], expected["mixed"])


@pytest.mark.parametrize(("model", "heads"), HEADS, ids=lambda each: str(each)[:12])
def test_a_head_stands_in_the_place_of_the_shared_parameter(
    model: Model, heads: tuple[str, ...]
) -> None:
    compare(trained(model, FedRep(heads=heads)), ("mixed",))


@pytest.mark.parametrize("form", [*FORMS, FedRep()], ids=lambda form: type(form).__name__)
@pytest.mark.parametrize("model", MODELS[1:], ids=lambda model: type(model).__name__)
def test_many_clients_side_by_side_are_the_clients_one_by_one(
    model: Model, form: Personalization
) -> None:
    task = ClientTask(model, form, TRAIN, 0, "clean", "float64", catalogue=small_catalogue())
    trial = Trial.before(task, small_split().shard(np.arange(10)))
    trial.compare(trial.with_model(execution="loop").results(), trial.results(), "vmap")
    trial.compare(trial.results(), trial.results(1), "alone")
