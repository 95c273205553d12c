"""A step in micro-batches is the step."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.update import UpdateBatch
from fedrec.models.base import Model
from fedrec.models.sasrec import SASRec
from fedrec.personalization.base import NoPersonalization, Personalization
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.training.clients import train_clients
from fedrec.types import Params, Shard
from tests.contracts.own_models import BiasedMF, SmallNet, VmapNet
from tests.planted import federations, initial_state, method_of

MODELS: dict[str, Model] = {
    "flat": BiasedMF(),
    "loop": SmallNet(),
    "vmap": VmapNet(),
    "window": SASRec(embedding_dim=4, max_len=5, heads=2, init_std=0.5),
}
FORMS: dict[str, Personalization] = {
    "none": NoPersonalization(),
    "similarity": PLGC(decorrelation=0.05, extra_rows=2),
    "table": PLGC(branch="table", decorrelation=0.05),
}
SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.5}
TRAINS = st.fixed_dictionaries(
    {
        "loss": st.sampled_from(["bce", "bpr"]),
        "reduction": st.sampled_from(["sum", "mean"]),
        "negatives": st.integers(1, 3),
        "local_epochs": st.integers(1, 2),
        "batch_size": st.sampled_from(["full", 3]),
        "clip_norm": st.sampled_from([None, 0.5]),
        "weight_decay": st.sampled_from([0.0, 0.2]),
        "optimizers": st.just({"item": SGD, "shared": SGD, "private": SGD}),
    }
)


def all_values(update: UpdateBatch, local: Params) -> dict[str, Any]:
    arrays = {name: block.values for name, block in update.tables.items()}
    return {**arrays, **update.dense, **update.metrics, **{f"private {n}": local[n] for n in local}}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=12, deadline=None)
@given(shard=federations(several=True), train=TRAINS, size=st.integers(1, 9))
def test_micro_batches_add_up_to_the_step(
    model: str, form: str, shard: Shard, train: dict[str, Any], size: int
) -> None:
    def results(**more: Any) -> dict[str, Any]:
        task = method_of(train | more, FORMS[form], MODELS[model], dtype="float64")
        params, local = initial_state(task, shard)
        return all_values(*train_clients(task, shard, params, local, 1))

    shard = replace(shard, timestamps=np.arange(len(shard.train.values))[::-1] * 1.0)
    whole, in_parts = results(), results(micro_batch=size)
    for name, expected in whole.items():
        np.testing.assert_allclose(in_parts[name], expected, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("model", ["flat", "loop"])
@settings(max_examples=15, deadline=None)
@given(shard=federations(several=True), train=TRAINS, size=st.integers(1, 5))
def test_in_micro_batches_too_no_bit_depends_on_the_company(
    model: str, shard: Shard, train: dict[str, Any], size: int
) -> None:
    task = method_of(train | {"micro_batch": size}, model=MODELS[model])
    params, local = initial_state(task, shard)
    expected = all_values(*train_clients(task, shard, params, local, 1))
    for chunk in (1, 2):
        alone = all_values(*train_clients(task, shard, params, local, 1, chunk))
        assert {n: v.tobytes() for n, v in alone.items()} == {
            n: v.tobytes() for n, v in expected.items()
        }
