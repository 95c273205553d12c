"""What clients measure for a strategy: their loss at the values that they received."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from fedrec.aggregation.update import UpdateBatch
from fedrec.errors import ConfigError
from fedrec.models.base import Model
from fedrec.models.mf import MatrixFactorization
from fedrec.testing.trial import as_bytes
from fedrec.training.clients import train_clients
from fedrec.types import Shard
from tests.contracts.own_models import BiasedMF
from tests.planted import federations, initial_state, method_of, rates

MF = MatrixFactorization(embedding_dim=4, init_std=0.5)


def trained(shard: Shard, asks: bool, fields: dict[str, Any], model: Model) -> UpdateBatch:
    task = method_of({"optimizers": rates(0.2), **fields}, model=model)
    task = replace(task, measures=("loss_before",) if asks else ())
    return train_clients(task, shard, *initial_state(task, shard), round=1)[0]


@settings(max_examples=8, deadline=None)
@given(federations())
def test_it_is_the_loss_of_the_first_step_over_everything(shard: Shard) -> None:
    """However many steps the client then makes, and whoever computes it."""
    whole = {"batch_size": "full", "local_epochs": 1}
    for model in (MF, BiasedMF()):
        expected = trained(shard, False, whole, model).metrics["loss"] / shard.examples()
        for fields in (whole, {"batch_size": 2, "local_epochs": 2}, {"micro_batch": 3}):
            before = trained(shard, True, fields, model).metrics["loss_before"]
            np.testing.assert_allclose(before, expected, rtol=1e-5)
    compiled = trained(shard, True, {**whole, "backend": "numba"}, MF).metrics["loss_before"]
    of_torch = trained(shard, True, whole, MF).metrics["loss_before"]
    np.testing.assert_allclose(compiled, of_torch, rtol=1e-5)


@settings(max_examples=8, deadline=None)
@given(federations())
def test_to_measure_it_changes_nothing_else(shard: Shard) -> None:
    fields = {"batch_size": 2, "local_epochs": 2}
    asked, plain = (trained(shard, asks, fields, BiasedMF()) for asks in (True, False))
    assert {*asked.metrics} - {*plain.metrics} == {"loss_before"}
    assert as_bytes(replace(asked, metrics=plain.metrics)) == as_bytes(plain)


def test_nothing_else_can_be_measured() -> None:
    with pytest.raises(ConfigError, match="asks clients to measure loss_after, expected one of"):
        replace(method_of(), measures=("loss_after",))


def test_several_steps_are_not_numbas() -> None:
    task = replace(method_of({"backend": "auto", "batch_size": 2}), measures=("loss_before",))
    assert task.executor() == "flat"
