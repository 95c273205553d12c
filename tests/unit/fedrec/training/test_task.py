"""Who computes a task: numba what it covers, the model's own execution all else."""

from dataclasses import replace
from typing import Any

import pytest

from fedrec.config.experiment import Experiment
from fedrec.errors import ConfigError
from fedrec.models.neumf import NeuMF
from fedrec.models.pfedrec import PFedRec
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.training.task import ClientTask
from strategies import FedProx, Scaffold
from tests.contracts.own_models import SquaredErrors
from tests.planted import method_of

pytest.importorskip("numba", reason="needs the extra 'sim'")

COVERED: dict[str, dict[str, Any]] = {
    "mf": {},
    "pfedrec": {"model": PFedRec()},
    "plgc": {"personalization": PLGC(decorrelation=1e-4, history_cap=9)},
    "decoupled": {"personalization": PLGC(mode="decoupled", balance="fixed")},
    "fedprox": {"client_rule": FedProx().client_rule},
}
UNCOVERED: dict[str, dict[str, Any]] = {
    "the model NeuMF": {"model": NeuMF()},
    "client rule": {"client_rule": Scaffold().client_rule},
    "train.loss: bpr": {"train": {"loss": "bpr"}},
    "popularity": {"train": {"negative_sampling": "popularity"}},
    "item but plain sgd": {"train": {"optimizers": {"item": {"momentum": 0.9}}}},
    "private but adam and plain sgd": {"train": {"optimizers": {"private": "adamw"}}},
    "train.clip_norm": {"train": {"clip_norm": 1.0}},
    "train.micro_batch": {"train": {"micro_batch": 64}},
    "branch: table": {"personalization": PLGC(branch="table")},
    "balance: trace": {"personalization": PLGC(balance="trace")},
    "beta: 3": {"personalization": PLGC(beta=3)},
    "view: cross": {"personalization": PLGC(view="cross")},
    "extra_rows: 2": {"personalization": PLGC(extra_rows=2)},
}


def task_of(backend: str, train: dict[str, Any] | None = None, **fields: Any) -> ClientTask:
    return method_of({**(train or {}), "backend": backend}, **fields)


@pytest.mark.parametrize("fields", COVERED.values(), ids=list(COVERED))
def test_numba_computes_what_it_covers(fields: dict[str, Any]) -> None:
    assert task_of("auto", **fields).executor() == task_of("numba", **fields).executor() == "numba"
    assert task_of("torch", **fields).executor() == "flat"


@pytest.mark.parametrize(("reason", "fields"), UNCOVERED.items(), ids=list(UNCOVERED))
def test_the_generic_path_computes_the_rest(reason: str, fields: dict[str, Any]) -> None:
    task = task_of("auto", **fields)
    assert task.executor() == task.model.execution
    with pytest.raises(ConfigError, match=r"does not cover .*write 'auto' or 'torch'") as error:
        task_of("numba", **fields).executor()
    assert reason in str(error.value)


def test_clients_of_several_users_are_for_the_generic_path() -> None:
    def executor(**clients: Any) -> str:
        document = {"data": {"name": "synthetic"}, "model": "mf", "clients": clients}
        return Experiment.model_validate(document).client_task().executor()

    assert executor() == "numba"
    assert executor(by="random", count=3) == "flat"
    with pytest.raises(ConfigError, match="clients of several users"):
        replace(task_of("numba"), several_users=True).executor()


def test_micro_batches_are_refused_for_a_loss_over_all_pairs() -> None:
    assert task_of("torch", {"micro_batch": None}, model=SquaredErrors()).model
    with pytest.raises(ConfigError, match="compares all pairs of a step"):
        task_of("torch", {"micro_batch": 4}, model=SquaredErrors())
