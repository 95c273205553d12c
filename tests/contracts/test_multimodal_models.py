"""Multimodal models keep the contracts in every form, and with both branches of PLGC."""

from dataclasses import replace

import numpy as np
import pytest

from fedrec.errors import ConfigError
from fedrec.models.multimodal import CM3, VBPR, Gate, LateFusion, LIRDRec, MetaMMF
from fedrec.models.multimodal.base import Multimodal
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.testing import check
from fedrec.testing.trial import Trial, small_split

SHAPES = {"embedding_dim": 5, "modalities": ("text", "image")}
FORMS: list[Multimodal] = [
    LateFusion(**SHAPES, weights="shared"),
    Gate(**SHAPES, gate="user"),
    MetaMMF(**SHAPES, form="full", layers=(), content_dim=3),
    CM3(**SHAPES, curve="uniform"),
    VBPR(embedding_dim=5, modalities=("text",)),
    CM3(embedding_dim=5, modalities=("text", "image", "sound")),
]
MODELS: list[Multimodal] = [
    VBPR(**SHAPES),
    LateFusion(**SHAPES),
    Gate(**SHAPES),
    MetaMMF(**SHAPES),
    CM3(**SHAPES),
    LIRDRec(**SHAPES),
]
PLGCS = [
    PLGC(branch="table", decorrelation=0.1),
    PLGC(branch="table", on="item"),
    PLGC(branch="similarity", mode="decoupled"),
    PLGC(branch="similarity", mode="joint"),
]
every_model = pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)


def with_plgc(model: Multimodal, plgc: PLGC) -> Trial:
    split, task = small_split(), replace(Trial.of(model, "float64").task, personalization=plgc)
    return Trial.before(task, split.shard(np.arange(split.n_clients)))


@pytest.mark.parametrize("model", FORMS, ids=lambda m: f"{type(m).__name__} {len(m.modalities)}")
def test_every_form_keeps_the_contracts(model: Multimodal) -> None:
    assert [each for each in check(model) if each[0] == "failed"] == []


@every_model
@pytest.mark.parametrize("plgc", PLGCS, ids=lambda p: f"{p.branch}-{p.on}-{p.mode}")
def test_plgc_trains_and_ranks_clients_as_if_alone(model: Multimodal, plgc: PLGC) -> None:
    if plgc.on == "item" and isinstance(model, CM3 | LIRDRec):
        with pytest.raises(ConfigError, match="on: vectors"):
            with_plgc(model, plgc)
        return
    if model.overrides("loss") and plgc.branch == "similarity" and plgc.mode == "joint":
        with pytest.raises(ConfigError, match="mode: decoupled"):
            with_plgc(model, plgc)
        return
    trial = with_plgc(model, plgc)
    results = trial.results()
    trial.compare(results, trial.results(3), "in chunks of 3")
    for arrays in results.values():
        assert all(np.isfinite(values).all() for values in arrays.values())
        assert (arrays["scores mixed"] != arrays["scores global"]).any()


@every_model
@pytest.mark.parametrize("on", ["vectors", "item"])
def test_plgc_with_the_whole_weight_on_the_client_is_the_model(model: Multimodal, on: str) -> None:
    if on == "item" and isinstance(model, CM3 | LIRDRec):
        return
    settings = {"branch": "table", "balance": "fixed", "value": 1, "persistence": 0, "on": on}
    plain = Trial.of(model, "float64").results()
    for client, arrays in with_plgc(model, PLGC.model_validate(settings)).results().items():
        for name in ("scores mixed", *Trial.of(model).task.travels()):
            np.testing.assert_allclose(arrays[name], plain[client][name], rtol=1e-9, atol=1e-12)
