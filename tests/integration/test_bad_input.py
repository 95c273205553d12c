"""Settings that fit the schema and not the data or the machine: one line, nothing left behind.

What the schema refuses: tests/unit/fedrec/config/test_refusals.py.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fedrec.config.experiment import load_experiment
from fedrec.errors import ConfigError
from tests.integration.refusal import Fedrec, of, refused

CLASS = "fedrec.models.mf:MatrixFactorization"
SETTINGS: Mapping[str, tuple[list[str], list[str]]] = {
    "misspelt key": (["rounds.cuont=3"], ["rounds.cuont", "did you mean 'count'"]),
    "cohort above clients": (["rounds.cohort_size=41"], ["rounds.cohort_size", "41", "40", "all"]),
    "nodes above clients": (["engine.nodes=41"], ["engine.nodes", "41", "40", "auto"]),
    "no strategy": ([f"strategy.name={CLASS}"], ["strategy", "strategies.Strategy"]),
    "K above the catalogue": (["evaluate.metrics=[ndcg@61]"], ["evaluate.metrics", "61", "55"]),
    "unknown column": (
        ["clients={by: column, column: taste_grup}"],
        ["clients.column", "did you mean 'taste_group'"],
    ),
    "clients above users": (["clients={by: random, count: 41}"], ["clients.count", "41", "40"]),
    "tastes above users": (["clients={by: taste, count: 41}"], ["clients.count", "41", "40"]),
    "threshold without ratings": (["data.threshold=3"], ["data.threshold", "no ratings", "null"]),
    "k-core of nothing": (["data.k_core=1000"], ["data.k_core", "1000", "lower it"]),
    "baseline by legacy": (
        ["model={name: popularity}", "data.protocol=legacy"],
        ["data.protocol", "clean"],
    ),
    "memory of a client rule above the limit": (
        ["strategy.name=scaffold", "engine.state_limit=20KiB"],
        [
            "engine.state_limit",
            "more than 20 KiB",
            "for the client rule",
            "fednova, or raise the limit",
        ],
    ),
    "private values above the limit": (
        [
            "model.embedding_dim=4096",
            "train.optimizers.private.name=sgd",
            "engine.state_limit=100KiB",
        ],
        [
            "engine.state_limit",
            "would remember 640 KiB, more than 100",
            "for the model: take a smaller model",
        ],
    ),
    "copies above the limit": (
        ["personalization=ditto", "engine.state_limit=0"],
        ["engine.state_limit", "more than 0 KiB", "for the personalization"],
    ),
    "memory of an optimizer above the limit": (
        ["train.optimizers.private.name=adam", "engine.state_limit=1KiB"],
        ["engine.state_limit", "optimizer of private values", "train.optimizers.private.name: sgd"],
    ),
    "no number of bytes": (
        ["engine.state_limit=2GB"],
        ["engine.state_limit", "500MiB or 2GiB", "2GB"],
    ),
    "no cluster": (
        ["engine={name: ray, address: '127.0.0.1:1'}"],
        ["127.0.0.1:1", "Connection refused", "serial"],
    ),
    "no address": (["engine={name: ray, address: nonsense}"], ["nonsense", "serial"]),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_bad_setting(command: Fedrec, case: str) -> None:
    sets, named = SETTINGS[case]
    refused(command, of(*sets), named)


def test_after_a_late_error_the_corrected_second_try_works(command: Fedrec) -> None:
    """These are found when the run folder is made already, by the server or the engine."""
    for case in ("no strategy", "no cluster"):
        refused(command, of(*SETTINGS[case][0]), SETTINGS[case][1])
    assert command(*of()).code == 0
    assert (Path("R") / "result.json").is_file()


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        elif key != "name":
            yield f"{prefix}{key}"


EVERYTHING = {
    "data": {"name": "csv", "path": "r.csv"},
    "personalization": "plgc",
    "strategy": "fedadam",
}
KEYS = sorted(leaves(load_experiment(EVERYTHING).model_dump(mode="json")))
OPTIONAL = {"data.items", "evaluate.rerank", "evaluate.targets"}
"""Sections that are left out by default: a mapping fits them, with keys of theirs."""


@pytest.mark.parametrize("key", KEYS)
def test_every_key_at_every_level_is_checked(key: str) -> None:
    """A misspelt one is unknown and the right one is named; a mapping fits none of them."""
    leaf = key.rpartition(".")[2]
    with pytest.raises(ConfigError) as unknown:
        load_experiment(EVERYTHING, [f"{key}x=1"])
    assert f"{key}x: unknown key (did you mean '{leaf}'?)" in str(unknown.value)
    with pytest.raises(ConfigError) as unfit:
        load_experiment(EVERYTHING, [f"{key}={{a: {{b: 1}}}}"])
    fault = f"{key}.a: unknown key" if key in OPTIONAL else f"experiment: {key}: expected "
    fault = f"{key}: the key 'name' is missing" if key == "rounds.devices" else fault
    assert fault in str(unfit.value)
    assert "\n" not in str(unknown.value) + str(unfit.value)


def test_all_levels_are_there() -> None:
    assert {"seed", "train.optimizers.private.lr", "data.split.seed", "data.columns.user"} <= {
        *KEYS
    }
    assert {"personalization.tau", "strategy.server_optimizer.lr", "engine.nodes"} <= {*KEYS}


def test_every_fault_is_a_line(command: Fedrec) -> None:
    done = command(*of("rounds.cuont=3", "train.loss=x", "data.users=0"))
    assert done.code == 2
    assert [line.split(": ")[2] for line in done.err.splitlines()] == [
        "data.users",
        "train.loss",
        "rounds.cuont",
    ]
