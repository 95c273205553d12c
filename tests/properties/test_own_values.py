"""Clients that receive values of their own train as each does who is sent the same alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.mix import values_of
from fedrec.aggregation.update import Mix
from fedrec.models import PFedRec
from fedrec.training import clients
from fedrec.training.clients import train_clients
from fedrec.types import Shard
from strategies.client_rules.proximal import Proximal
from tests.planted import federations, initial_state, method_of
from tests.properties.test_invariance import NUMBA_TRAINS, TRAINS, raw


@pytest.mark.parametrize("backend", ["torch", "numba"])
@settings(max_examples=15, deadline=None)
@given(
    shard=federations(),
    trains=st.tuples(TRAINS, NUMBA_TRAINS),
    linear=st.booleans(),
    mu=st.sampled_from([0.0, 0.5]),
    dtype=st.sampled_from(["float32", "float64"]),
    data=st.data(),
)
def test_rows_that_are_formed_for_a_client_are_those_of_its_table(
    backend: str,
    shard: Shard,
    trains: tuple[dict[str, Any], dict[str, Any]],
    linear: bool,
    mu: float,
    dtype: str,
    data: st.DataObject,
) -> None:
    train = trains[backend == "numba"] | {"backend": backend}
    model = PFedRec(embedding_dim=4, init_std=0.5) if linear else None
    rule = Proximal(mu=mu) if mu else None
    alike = method_of(train, model=model, dtype=dtype, client_rule=rule)
    task = replace(alike, payload="client")
    assert (task.executor() == "numba") == (backend == "numba")
    params, local = initial_state(task, shard)
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    bases = np.stack([params["item"], *rng.normal(size=(2, *params["item"].shape))])
    weights = rng.choice([0, 0.5, 1, 2], size=(shard.n_clients, 3)).astype(np.float32)
    weights[weights.sum(1) == 0, 0] = 1
    mix = Mix(bases.astype(np.float32), weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clients, "_FORMED_BYTES", data.draw(st.sampled_from([1, 300, 2**27])))
        together, after = train_clients(task, shard, {}, local, 1, own={"item": mix})
    for u in range(shard.n_clients):
        one = np.array([u])
        received = {"item": values_of(mix, one)[0]}
        before = {name: values[one] for name, values in local.items()}
        alone, later = train_clients(alike, shard.take(one), received, before, 1)
        private = {name: values[one] for name, values in after.items()}
        assert raw(together.take(one), private) == raw(alone, later)
