"""Models may train in fewer digits; what leaves, and what is ranked by, is float32."""

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.device import Resources
from fedrec.errors import ConfigError
from fedrec.models.base import Batch, Model
from fedrec.models.mf import MatrixFactorization
from fedrec.models.module import ModelParams
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.testing.trial import TRAIN, Trial
from fedrec.training.clients import train_clients
from tests.contracts.content_models import Content, TextAlone, TwoLayers


class Seen(Content):
    """Notes in what it computes."""

    kinds: ClassVar[list[torch.dtype]] = []

    def item_vectors(self, params: ModelParams, items: torch.Tensor) -> torch.Tensor:
        projected = params["text"] @ params["projection"].T
        self.kinds.append(projected.dtype)
        return torch.cat([params["item"], projected.float()], -1)


class Steep(Content):
    """Its loss, and so its gradients, are large."""

    def loss(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        score = self.score(params, batch, vectors)
        return 1e6 * score


class Flat(Content):
    """Its loss is nearly constant."""

    def loss(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        return 1e-8 * self.score(params, batch, vectors)


def trial_of(model: Model, precision: Any, **changes: Any) -> Trial:
    trial = Trial.of(model, "float32")
    task = replace(trial.task, resources=Resources(precision=precision), **changes)
    return Trial.before(task, trial.shard)


def trained(trial: Trial) -> UpdateBatch:
    return train_clients(trial.task, trial.shard, trial.params, trial.private, 1)[0]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("model", [TwoLayers(), Content(), TextAlone()])
def test_updates_are_about_those_of_float32(model: Model, precision: str) -> None:
    plgc = PLGC(branch="table")
    expected = trained(trial_of(model, "float32", personalization=plgc))
    update = trained(trial_of(model, precision, personalization=plgc))
    pairs = [(update.dense[name], like) for name, like in expected.dense.items()]
    pairs += [(update.tables[name].values, like.values) for name, like in expected.tables.items()]
    for values, like in pairs:
        assert values.dtype == np.float32
        assert np.abs(values - like).max() < 0.05 * np.abs(like).max()
    assert any((values != like).any() for values, like in pairs)


def test_a_model_computes_in_the_precision_while_it_trains_and_ranks_in_float32() -> None:
    model = Seen()
    trial = trial_of(model, "bf16")
    model.kinds.clear()
    trained(trial)
    assert set(model.kinds) == {torch.bfloat16}
    model.kinds.clear()
    trial_of(model, "float32").results()
    assert set(model.kinds) == {torch.float32}
    model.kinds.clear()
    results = trial.results()
    assert torch.float32 in model.kinds  # the ranking
    assert results[0]["scores mixed"].dtype == np.float32


def test_flat_models_compute_in_float32() -> None:
    model = MatrixFactorization(embedding_dim=8)
    expected = trained(trial_of(model, "float32")).tables["item"].values
    assert trained(trial_of(model, "fp16")).tables["item"].values.tobytes() == expected.tobytes()


def test_numbers_too_large_for_fp16_are_named_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"not finite in fp16, .* set engine.precision: bf16"):
        trained(trial_of(Steep(), "fp16"))
    once = TRAIN.model_copy(update={"local_epochs": 1, "batch_size": "full"})
    update = trained(trial_of(Steep(), "bf16", train=once))
    assert np.isfinite(update.dense["projection"]).all()


def test_small_gradients_survive_fp16() -> None:
    """A derivative of 1e-8 is below the smallest number of fp16, 6e-8, but not 256 times it."""
    update = trained(trial_of(Flat(), "fp16")).dense["projection"]
    expected = trained(trial_of(Flat(), "float32")).dense["projection"]
    assert 0 < np.abs(update - expected).max() < 0.2 * np.abs(expected).max()
