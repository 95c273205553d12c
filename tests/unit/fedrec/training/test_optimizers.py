"""Optimizers of groups of parameters, their schedule, and clipping."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.update import UpdateBatch
from fedrec.config.experiment import load_experiment
from fedrec.errors import ConfigError
from fedrec.models.base import Model
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.training.clients import train_clients
from fedrec.training.schedule import Schedule
from fedrec.types import Params, Shard
from strategies import Scaffold
from tests.contracts.own_models import BiasedMF, SmallNet, Weighted
from tests.oracles.test_optimizer_oracle import OPTIMIZERS, TRAINS
from tests.planted import federations, initial_state, method_of, rates, shard_of

WSD = {"name": "wsd", "warmup": 10, "stable": 60, "anneal": 30}


def all_bytes(update: UpdateBatch, local: Params) -> dict[str, bytes]:
    arrays = {name: block.values for name, block in update.tables.items()}
    arrays |= {**update.dense, **update.metrics, **{f"private {n}": v for n, v in local.items()}}
    return {name: value.tobytes() for name, value in arrays.items()}


@settings(max_examples=40, deadline=None)
@given(
    shard=federations(several=True),
    train=TRAINS,
    model=st.sampled_from([BiasedMF(), Weighted(), SmallNet()]),
)
def test_no_bit_depends_on_the_company(shard: Shard, train: dict[str, Any], model: Model) -> None:
    task = method_of(train, model=model)
    params, local = initial_state(task, shard)
    _, between = train_clients(task, shard, params, local, 1)
    expected = all_bytes(*train_clients(task, shard, params, between, 2))
    for chunk in (1, 2):
        assert all_bytes(*train_clients(task, shard, params, between, 2, chunk)) == expected


# Clipping -----------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(shard=federations(several=True), norm=st.floats(0.01, 10), model=st.sampled_from([0, 1]))
def test_the_gradient_of_a_client_has_a_norm_at_most(shard: Shard, norm: float, model: int) -> None:
    """A step of the rate 1 is the gradient: shortened to the norm if longer, else as it was."""
    sgd = {"name": "sgd", "lr": 1.0}
    optimizers = {"item": sgd, "shared": sgd, "private": sgd}

    def changes(clip_norm: float | None) -> list[np.ndarray[Any, Any]]:
        task = method_of(
            {"optimizers": optimizers, "clip_norm": clip_norm},
            model=[BiasedMF(), SmallNet()][model],
            dtype="float64",
        )
        params, local = initial_state(task, shard)
        update, after = train_clients(task, shard, params, local, 1)
        axes = {name: task.specs()[name].axis for name in local}
        of_clients = []
        for row in range(shard.n_clients):
            users = slice(*shard.client_offsets[row : row + 2])
            parts = [np.ravel(value[row]) for value in update.dense.values()]
            for block in update.tables.values():
                parts.append(block.values[slice(*block.offsets[row : row + 2])].ravel())
            for name, axis in axes.items():
                at = users if axis == "user" else slice(row, row + 1)
                parts.append((after[name][at] - local[name][at]).ravel())
            of_clients.append(np.concatenate(parts))
        return of_clients

    for plain, shortened in zip(changes(None), changes(norm), strict=True):
        length = np.linalg.norm(plain)
        factor = 1.0 if length <= norm else norm / length
        np.testing.assert_allclose(shortened, plain * factor, atol=1e-12, rtol=1e-9)


# Schedules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("round", "factor"), [(5, 0.5), (40, 1.0), (85, 0.5), (100, 0.0)])
def test_golden_rates_of_warm_up_stable_and_annealing(round: int, factor: float) -> None:
    """W = 10, S = 70, T = 100, linear to 0."""
    assert Schedule.model_validate(WSD | {"floor": 0}).factor(round) == pytest.approx(factor)


@pytest.mark.parametrize("shape", ["linear", "exponential"])
@given(
    warmup=st.integers(0, 9),
    stable=st.integers(0, 9),
    anneal=st.integers(1, 9),
    floor=st.floats(0.01, 1),
)
def test_rates_rise_stay_and_fall_to_the_floor(
    shape: str, warmup: int, stable: int, anneal: int, floor: float
) -> None:
    schedule = Schedule.model_validate(
        {"name": "wsd", "warmup": warmup, "stable": stable, "anneal": anneal}
        | {"floor": floor, "shape": shape}
    )
    end = warmup + stable + anneal
    factors = [schedule.factor(round) for round in range(1, end + 4)]
    assert all(0 < factor <= 1 for factor in factors)
    rising, rest = factors[: max(warmup - 1, 0)], factors[max(warmup - 1, 0) :]
    assert rising == sorted(set(rising))
    assert all(a >= b for a, b in pairwise(rest))
    assert all(factor == 1 for factor in factors[max(warmup - 1, 0) : warmup + stable])
    assert factors[end - 1 :] == pytest.approx([floor] * 4)


def test_half_of_an_exponential_fall_is_the_root_of_the_floor() -> None:
    schedule = Schedule.model_validate(WSD | {"floor": 0.25, "shape": "exponential"})
    assert schedule.factor(85) == pytest.approx(0.5)


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("plgc", [False, True])
def test_a_schedule_is_other_rates_in_every_group(backend: str, plgc: bool) -> None:
    if backend == "numba":
        pytest.importorskip("numba", reason="needs the extra 'sim'")
    shard = shard_of(9, [[1, 2, 3], [4], [0, 8]])

    def results(factor: float, **train: Any) -> dict[str, bytes]:
        optimizers = rates(0.4 * factor, {"lr": 0.2 * factor})
        form = PLGC(decorrelation=0.01) if plgc else None
        task = method_of({"optimizers": optimizers, "backend": backend, **train}, form)
        return all_bytes(*train_clients(task, shard, *initial_state(task, shard), 5))

    assert results(1.0, schedule=WSD) == results(0.5)
    assert results(1.0, schedule=WSD) != results(1.0)


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"optimizers": {"shared": {"nesterov": True}}}, "nesterov: needs a momentum above 0"),
        ({"optimizers": {"item": {"weight_decay": 0.1}}}, "item.weight_decay: moves every row"),
        ({"optimizers": {"item": {"momentum": 1}}}, "item.momentum: expected less than 1"),
        ({"schedule": WSD | {"stable": 90}}, r"10 \+ stable 90 \+ anneal 30 are 130 rounds"),
        ({"schedule": WSD | {"shape": "exponential", "floor": 0}}, "floor: expected more than 0"),
        ({"clip_norm": 0}, "clip_norm: expected more than 0"),
    ],
    ids=str,
)
def test_contradictions_are_refused(train: dict[str, Any], message: str) -> None:
    document = {"data": "synthetic", "model": "neumf", "train": train, "rounds": {"count": 100}}
    with pytest.raises(ConfigError, match=message) as error:
        load_experiment(document)
    assert "\n" not in str(error.value)


@given(options=OPTIMIZERS)
def test_control_variates_want_plain_sgd(options: dict[str, Any]) -> None:
    groups = [options["item"], options["shared"]]
    plain = all(
        group["name"] == "sgd" and not group.get("momentum") and not group.get("weight_decay")
        for group in groups
    )
    rule = Scaffold().client_rule
    if plain:
        method_of({"optimizers": options}, model=BiasedMF(), client_rule=rule)
        return
    with pytest.raises(ConfigError, match=r"plain SGD .* but train\.optimizers\.(item|shared) is"):
        method_of({"optimizers": options}, model=BiasedMF(), client_rule=rule)


def test_control_variates_want_a_rate_in_every_round() -> None:
    schedule = WSD | {"floor": 0}
    with pytest.raises(ConfigError, match=r"but train\.schedule\.floor is 0"):
        method_of({"schedule": schedule}, client_rule=Scaffold().client_rule)
