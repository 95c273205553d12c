"""A model gives the same on every device, and one place alone says which it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedrec.aggregation.update import Down
from fedrec.compute.batch import pad_rows, padded_places
from fedrec.compute.device import Resources, sees_gpu, to_array
from fedrec.compute.operations import padded_mm, repeat_rows
from fedrec.models.base import Model
from fedrec.models.mf import MatrixFactorization
from fedrec.models.multimodal import CM3, LIRDRec, MetaMMF
from fedrec.models.neumf import NeuMF
from fedrec.models.sasrec import SASRec
from fedrec.personalization.base import Personalization
from fedrec.personalization.plgc.decorrelation import cross_view, single_view
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.testing.trial import Trial
from fedrec.training.settings import Train
from strategies import Scaffold
from strategies.client_rules.scaffold import ControlVariates
from tests.contracts.content_models import Content, DroppingLayers, OwnLoss, TextAlone
from tests.contracts.own_models import SmallNet
from tests.other_device import other_device

MODELS: dict[str, Model] = {
    "neumf": NeuMF(embedding_dim=4, layers=(6, 4), init_std=0.3),
    "neumf-private": NeuMF(embedding_dim=4, layers=(6, 4), init_std=0.3, head="private"),
    "sasrec": SASRec(embedding_dim=8, max_len=6, heads=2),
    "loop": SmallNet(),
    "content": Content(),
    "text": TextAlone(),
    "dropout": DroppingLayers(),
    "loss": OwnLoss(),
    "metammf": MetaMMF(embedding_dim=4),
    "cm3": CM3(embedding_dim=4),
    "lirdrec": LIRDRec(embedding_dim=4),
}
FORMS: dict[str, Personalization] = {
    "none": Personalization(),
    "similarity": PLGC(mode="decoupled", decorrelation=0.1, extra_rows=2, history_cap=5),
    "table": PLGC(branch="table", balance="residual", decorrelation=0.1),
}
TRAINS: dict[str, dict[str, Any]] = {
    "plain": {},
    "adam": {
        "optimizers": {
            "item": {"name": "adam", "epsilon": 0.01},
            "shared": {"name": "adamw", "weight_decay": 0.1, "epsilon": 0.01},
        },
        "weight_decay": 0.2,
        "reduction": "mean",
        "clip_norm": 0.5,
    },
    "micro": {"loss": "bpr", "micro_batch": 4, "batch_size": "full"},
}


CASES = [
    ("neumf", "none", "adam"),
    ("neumf-private", "table", "plain"),
    ("sasrec", "none", "micro"),
    ("sasrec", "table", "plain"),
    ("loop", "similarity", "adam"),
    ("content", "similarity", "plain"),
    ("text", "table", "plain"),
    ("dropout", "none", "micro"),
    ("loss", "none", "plain"),
    ("metammf", "table", "plain"),
    ("cm3", "none", "plain"),
    ("lirdrec", "none", "plain"),
]


@contextmanager
def gpu() -> Iterator[str]:
    yield "cuda"


DEVICES = [
    pytest.param(other_device, id="other"),
    pytest.param(gpu, id="cuda", marks=pytest.mark.skipif(not sees_gpu(), reason="no GPU here")),
]


def on(device: str, trial: Trial, **changes: Any) -> Trial:
    return replace(trial, task=replace(trial.task, resources=Resources(device), **changes))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("model", "form", "train"), CASES)
def test_training_and_ranking_are_the_same(model: str, form: str, train: str, device: Any) -> None:
    trial = Trial.of(MODELS[model], "float64")
    settings = Train.model_validate({**trial.task.train.model_dump(), **TRAINS[train]})
    task = replace(trial.task, personalization=FORMS[form], train=settings)
    trial = Trial.before(task, trial.shard)
    expected = trial.results()
    with device() as name:
        moved = on(name, trial)
        assert moved.task.resources_used.device == name
        trial.compare(expected, moved.results(), f"on {name}")


@pytest.mark.parametrize("device", DEVICES)
def test_what_clients_remember_is_the_same(device: Any) -> None:
    rule = ControlVariates()
    trial = Trial.of(Scaffold(), "float64")
    trial = Trial.before(replace(trial.task, model=MODELS["neumf"], client_rule=rule), trial.shard)
    down = {f"{n}/{kind}": np.ones_like(v) for n, v in trial.params.items() for kind in rule.down}
    trial = replace(trial, down=Down({**trial.params, **down}))
    expected = trial.results()
    with device() as name:
        trial.compare(expected, on(name, trial).results(), f"on {name}")


def test_a_flat_model_stays_on_the_cpu() -> None:
    """Its promise of equal bits is for the CPU alone."""
    trial = Trial.of(MatrixFactorization(embedding_dim=8))
    with other_device() as name:
        moved = on(name, trial)
        assert moved.task.resources_used.device == "cpu"
        trial.compare(trial.results(), moved.results(), "flat")


def test_what_names_a_device_is_found() -> None:
    """The other device refuses what a GPU refuses, so these tests can fail."""
    trial = Trial.of(MODELS["neumf"], "float64").with_model(
        score=lambda self, params, batch, vectors: (
            vectors @ torch.ones(vectors.shape[1], dtype=torch.float64, device="cpu")
        )
    )
    with other_device() as name, pytest.raises(RuntimeError, match="tensors of two devices"):
        on(name, trial).results()


@pytest.mark.parametrize("device", DEVICES)
def test_backward_passes_name_their_device(device: Any) -> None:
    """On a GPU they run in a thread in which no default device is set."""
    offsets = np.array([0, 2, 3])
    operations: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "padded_mm": lambda x: padded_mm(x, x.T.detach()),
        "repeat_rows": lambda x: repeat_rows(x[:2], offsets),
        "cross_view": lambda x: cross_view(x, x.detach() + 1, 0.1, offsets),
        "single_view": lambda x: single_view(x, offsets),
        "pad_rows": lambda x: pad_rows(x, *padded_places(np.array([2, 1]))),
    }
    values = np.arange(12.0).reshape(3, 4) ** 2
    for name, operation in operations.items():
        with device() as where:
            with torch.device(where):
                x = torch.as_tensor(values).requires_grad_(True)
                total = operation(x).square().sum()
            gradient = to_array(torch.autograd.grad(total, x)[0])
        x = torch.as_tensor(values).requires_grad_()
        (expected,) = torch.autograd.grad(operation(x).square().sum(), x)
        np.testing.assert_allclose(gradient, to_array(expected), rtol=1e-12, err_msg=name)
