"""Models with modules and item content keep the contracts, with PLGC too."""

from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch

from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError
from fedrec.models.base import Model
from fedrec.models.dropout import uniform
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.testing import check
from fedrec.testing.trial import Trial, small_catalogue, small_split
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, ParamSpec
from tests.contracts.content_models import (
    Content,
    DroppingLayers,
    OwnLoss,
    TextAlone,
    TwoLayers,
)

MODELS = (TwoLayers(), DroppingLayers(), Content(), TextAlone(), OwnLoss())
PLGCS = (
    PLGC(branch="table", decorrelation=0.1),
    PLGC(branch="table", on="item"),
    PLGC(mode="decoupled", balance="trace"),
    PLGC(mode="decoupled", on="item"),
)


def with_plgc(model: Model, plgc: PLGC, dtype: str = "float64") -> Trial:
    split, task = small_split(), replace(Trial.of(model, dtype).task, personalization=plgc)
    return Trial.before(task, split.shard(np.arange(split.n_clients)))


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
def test_every_contract_holds(model: Model) -> None:
    assert [each for each in check(model) if each[0] == "failed"] == []


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("plgc", PLGCS, ids=lambda p: f"{p.branch}-{p.on}")
def test_plgc_is_the_clients_own_affair(model: Model, plgc: PLGC) -> None:
    if plgc.on == "item" and isinstance(model, TextAlone):
        with pytest.raises(ConfigError, match="on: vectors"):
            with_plgc(model, plgc)
        return
    trial = with_plgc(model, plgc)
    trial.compare(trial.results(), trial.results(3), "in chunks of 3")


@pytest.mark.parametrize("model", [TwoLayers(), Content(), TextAlone()])
@pytest.mark.parametrize("on", ["vectors", "item"])
def test_plgc_with_the_whole_weight_on_the_client_is_the_model(model: Model, on: Any) -> None:
    if on == "item" and isinstance(model, TextAlone):
        return
    plgc = PLGC(branch="table", balance="fixed", value=1, persistence=0, on=on)
    plain = Trial.of(model, "float64").results()
    for client, arrays in with_plgc(model, plgc).results().items():
        for name in Trial.of(model).task.travels():
            np.testing.assert_allclose(arrays[name], plain[client][name], rtol=1e-9, atol=1e-12)


def test_equal_text_ties() -> None:
    catalogue = small_catalogue()
    text = catalogue.feature("text").copy()
    text[5] = text[4]
    twins = replace(catalogue, features={"text": text}, present={"text": np.ones(60, np.bool_)})
    trial = Trial.of(TextAlone())
    trial = replace(trial, task=replace(trial.task, catalogue=replace(twins, hash="twins")))
    for arrays in trial.results().values():
        scores = arrays["scores mixed"]
        np.testing.assert_allclose(scores[:, 4], scores[:, 5], rtol=1e-12)


def test_a_seed_decides_how_a_module_begins() -> None:
    def first(seed: int) -> FloatArray:
        task = replace(Trial.of(TwoLayers()).task, seed=seed)
        return task.initial_globals(3)["0.weight"]

    assert np.array_equal(first(1), first(1))
    assert not np.array_equal(first(1), first(2))


def test_draws_count_from_the_front_and_are_uniform() -> None:
    key = torch.tensor(12345)
    few, many = uniform(key, (3, 5)), uniform(key, (300, 50))
    assert torch.equal(few, many[:3, :5])
    assert not torch.equal(few, uniform(key + 1, (3, 5)))
    counts = torch.histc(many, 10, 0, 1) / many.numel()
    assert (counts - 0.1).abs().max() < 0.01
    assert (many[1:] * many[:-1]).mean() == pytest.approx(0.25, abs=0.01)


class FlatModule(TwoLayers):
    execution: ClassVar[Literal["flat", "vmap", "loop"]] = "flat"


class NoModule(TwoLayers):
    def build(self, catalogue: Catalogue) -> Any:
        return "a network"


class Narrow(Content):
    def params(self, catalogue: Catalogue) -> dict[str, ParamSpec]:
        return {**super().params(catalogue), "text": ParamSpec("frozen", "item", (3,))}


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (FlatModule(), "builds a module, but is 'flat'"),
        (NoModule(), "build returned str, expected a torch.nn.Module"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_cannot_be_is_refused(model: Model, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Trial.of(model)


def test_a_feature_of_another_shape_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'text' of the shape \(3,\), but the items have \(8,\)"):
        replace(Trial.of(Content()).task, model=Narrow())


def test_a_feature_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="no feature 'text'; declare it in the section features"):
        ClientTask(Content(), PLGC(), Trial.of(TwoLayers()).task.train, 0).specs()
