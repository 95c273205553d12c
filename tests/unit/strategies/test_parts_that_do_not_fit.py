"""Parts of a strategy, and local training, that a client rule cannot work with: one line each."""

from collections.abc import Mapping
from typing import Any

import pytest

from fedrec.config.experiment import load_experiment
from fedrec.errors import ConfigError

DATA = {"name": "synthetic", "users": 12, "items": 20}
ADAM = {"train": {"optimizers": {"item": {"name": "adam"}}}}
MOMENTUM = {"train": {"optimizers": {"shared": {"momentum": 0.9}}}}
DECAY = {"train": {"optimizers": {"shared": {"weight_decay": 0.1}}}}
TO_ZERO = {"train": {"schedule": {"name": "wsd", "floor": 0}}}
OVER_ROWS = "needs the mean with average: cohort, got average: per_row; write {name: mean, average"
REFUSED: Mapping[str, tuple[dict[str, Any], str]] = {
    "another average": (
        {"strategy": {"name": "fedavg", "client_rule": "feddyn"}},
        f"strategy.aggregation: the client rule feddyn {OVER_ROWS}",
    ),
    "a sum": (
        {"strategy": {"name": "fednova", "aggregation": {"average": "sum"}}},
        "strategy.aggregation: the client rule fednova needs the mean with average: cohort, got",
    ),
    "no mean": (
        {"strategy": {"name": "scaffold", "aggregation": "median"}},
        "the client rule scaffold needs the mean with average: cohort, got median; write",
    ),
    "unequal weights": (
        {"strategy": {"name": "scaffold", "aggregation": {"weighting": "examples"}}},
        "needs every client to count the same, got weighting: examples; write weighting: uniform",
    ),
    "rows that stay": (
        {"strategy": {"name": "feddyn", "server_optimizer": {"moments": "lazy"}}},
        "strategy.server_optimizer: the client rule feddyn also moves rows that nobody touched",
    ),
    "adam": ({"strategy": "scaffold", **ADAM}, "train.optimizers.item is name: adam"),
    "momentum": ({"strategy": "fednova", **MOMENTUM}, "shared is name: sgd, momentum: 0.9"),
    "decay": ({"strategy": "scaffold", **DECAY}, "weight_decay: 0.1; change that or take another"),
    "a rate of 0": ({"strategy": "fednova", **TO_ZERO}, "train.schedule.floor is 0"),
    "numba": (
        {"strategy": "feddyn", "train": {"backend": "numba"}},
        "train.backend: numba does not cover the strategy's client rule; write 'auto' or 'torch'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused(case: str) -> None:
    changes, line = REFUSED[case]
    with pytest.raises(ConfigError) as error:
        load_experiment({"data": DATA, **changes}).client_task().executor()
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("strategy", ["feddyn", "fedprox", "fedavg"])
def test_other_rules_work_with_any_optimizer(strategy: str) -> None:
    assert load_experiment({"data": DATA, "strategy": strategy, **ADAM}).client_task().executor()
