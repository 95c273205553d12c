"""Bad settings and bad YAML: one line that says so, before round 1, and nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fedrec.config.experiment import load_experiment
from fedrec.errors import ConfigError
from tests.integration.refusal import Fedrec, of, refused

CLASS = "fedrec.models.mf:MatrixFactorization"
SETTINGS: Mapping[str, tuple[list[str], list[str]]] = {
    "word for a number": (["rounds.count=many"], ["rounds.count", "whole number", "'many'"]),
    "fraction for a count": (["rounds.count=2.5"], ["rounds.count", "whole number", "2.5"]),
    "null for a number": (["rounds.count=null"], ["rounds.count", "null"]),
    "off for a number": (["train.weight_decay=off"], ["train.weight_decay", "false", "quoted"]),
    "yes for a number": (["rounds.count=yes"], ["rounds.count", "true", "quoted"]),
    "no for a word": (["train.reduction=no"], ["train.reduction", "false", "quoted"]),
    "off for a plug-in": (["personalization=off"], ["personalization", "false", "quoted"]),
    "exponent for a count": (["seed=1e3"], ["seed", "whole number", "'1e3'"]),
    "a date": (["seed=2024-01-01"], ["seed", "whole number"]),
    "neither number nor word": (
        ["train.batch_size=ful"],
        ["train.batch_size", "a whole number or 'full'", "'ful'"],
    ),
    "value for a section": (["train=3"], ["train", "mapping", "3"]),
    "null for a section": (["engine=null"], ["engine", "mapping", "null"]),
    "list for a section": (["data=[a]"], ["data", "mapping", "'name'"]),
    "value for a list": (["evaluate.metrics=mrr"], ["evaluate.metrics", "list", "'mrr'"]),
    "section for a value": (["seed.x=1"], ["seed", "whole number"]),
    "key of a value": (["rounds.count.x=1"], ["rounds.count.x=1", "'count' is a value"]),
    "zero rounds": (["rounds.count=0"], ["rounds.count", "1 or more", "0"]),
    "negative rate": (
        ["train.optimizers.item.lr=-1"],
        ["train.optimizers.item.lr", "more than 0", "-1"],
    ),
    "rate not finite": (["train.optimizers.item.lr=.nan"], ["train.optimizers.item.lr", "finite"]),
    "infinite rate": (["train.optimizers.item.lr=.inf"], ["train.optimizers.item.lr", "finite"]),
    "negative seed": (["seed=-1"], ["seed", "0 or more", "-1"]),
    "huge seed": ([f"seed={2**63}"], ["seed", "less than", str(2**63)]),
    "share above 1": (["rounds.cohort_fraction=1.5"], ["rounds.cohort_fraction", "1 or less"]),
    "size and share": (
        ["rounds.cohort_size=3", "rounds.cohort_fraction=0.5"],
        ["rounds.cohort_fraction", "cohort_size"],
    ),
    "cohort above clients": (["rounds.cohort_size=41"], ["rounds.cohort_size", "41", "40", "all"]),
    "empty cohort": (["rounds.cohort_size=0"], ["rounds.cohort_size", "1", "'all'"]),
    "nodes above clients": (["engine.nodes=41"], ["engine.nodes", "41", "40", "auto"]),
    "no workers": (["engine.workers=0"], ["engine.workers", "'auto'"]),
    "unknown engine": (["engine.name=rya"], ["engine.name", "'ray'", "'rya'"]),
    "unknown optimiser": (
        ["train.optimizers.private.name=adamm"],
        ["train.optimizers.private.name", "'adam'", "'adamm'"],
    ),
    "unknown model": (["model.name=mff"], ["model", "'mff'", "did you mean 'mf'"]),
    "unknown strategy": (["strategy=fedav"], ["strategy", "'fedav'", "did you mean 'fedavg'"]),
    "unknown data": (["data.name=synthetik"], ["data", "did you mean 'synthetic'"]),
    "unknown personalization": (["personalization=plgd"], ["personalization", "'plgc'"]),
    "name is no text": (["model.name=3"], ["model.name", "text", "3"]),
    "no module": (["model.name=nowhere:Own"], ["model", "nowhere", "beside the YAML"]),
    "no class": (["model.name=fedrec.models.mf:Nope"], ["model", "'fedrec.models.mf'", "'Nope'"]),
    "no plug-in": (["model.name=fedrec.config.experiment:Train"], ["model", "not a plug-in class"]),
    "no model": (["model.name=fedrec.data:Synthetic"], ["model", "Model", "Baseline"]),
    "no personalization": ([f"personalization.name={CLASS}"], ["Personalization", CLASS]),
    "no strategy": ([f"strategy.name={CLASS}"], ["strategy", "strategies.Strategy"]),
    "no attribute": (["model.name='nowhere:'"], ["model", "package.module:Class"]),
    "unknown metric": (["evaluate.metrics=[ndgc@10]"], ["evaluate.metrics", "mean 'ndcg'"]),
    "metric without K": (["evaluate.metrics=[ndcg]"], ["evaluate.metrics", "ndcg@10"]),
    "metric with K = 0": (["evaluate.metrics=[ndcg@0]"], ["evaluate.metrics", "from 1"]),
    "no metric": (["evaluate.metrics=[]"], ["evaluate.metrics", "at least one"]),
    "metric that cannot choose": (["evaluate.metrics=[gini@5]"], ["evaluate.metrics", "per user"]),
    "K above the catalogue": (["evaluate.metrics=[ndcg@61]"], ["evaluate.metrics", "61", "55"]),
    "groups without count": (["clients.by=random"], ["clients.by", "count"]),
    "groups without column": (["clients.by=column"], ["clients.by", "column"]),
    "unknown column": (
        ["clients={by: column, column: taste_grup}"],
        ["clients.column", "did you mean 'taste_group'"],
    ),
    "clients above users": (["clients={by: random, count: 41}"], ["clients.count", "41", "40"]),
    "tastes above users": (["clients={by: taste, count: 41}"], ["clients.count", "41", "40"]),
    "threshold without ratings": (["data.threshold=3"], ["data.threshold", "no ratings", "null"]),
    "k-core of nothing": (["data.k_core=1000"], ["data.k_core", "1000", "lower it"]),
    "nothing to train on": (
        ["data.split={name: ratio, valid: 0.6, test: 0.5}"],
        ["data.split", "below 1"],
    ),
    "groups above users": (["data.taste_groups=50"], ["data.taste_groups", "40"]),
    "baseline by legacy": (
        ["model={name: popularity}", "data.protocol=legacy"],
        ["data.protocol", "clean"],
    ),
    "no cluster": (
        ["engine={name: ray, address: '127.0.0.1:1'}"],
        ["127.0.0.1:1", "Connection refused", "serial"],
    ),
    "no address": (["engine={name: ray, address: nonsense}"], ["nonsense", "serial"]),
    "--set without a value": (["rounds"], ["--set rounds", "dotted.key=value"]),
    "--set without a key": (["=3"], ["--set =3", "dotted.key=value"]),
    "--set with half a key": (["rounds.=3"], ["--set rounds.=3", "dotted.key=value"]),
    "--set with half a value": (["rounds.count=["], ["--set rounds.count=[", "YAML"]),
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


@pytest.mark.parametrize("key", KEYS)
def test_every_key_at_every_level_is_checked(key: str) -> None:
    """A misspelt one is unknown and the right one is named; a mapping fits none of them."""
    leaf = key.rpartition(".")[2]
    with pytest.raises(ConfigError) as unknown:
        load_experiment(EVERYTHING, [f"{key}x=1"])
    assert f"{key}x: unknown key (did you mean '{leaf}'?)" in str(unknown.value)
    with pytest.raises(ConfigError) as unfit:
        load_experiment(EVERYTHING, [f"{key}={{a: {{b: 1}}}}"])
    assert f"experiment: {key}: expected " in str(unfit.value)
    assert "\n" not in str(unknown.value) + str(unfit.value)


def test_all_levels_are_there() -> None:
    assert {"seed", "train.optimizers.private.lr", "data.split.seed", "data.columns.user"} <= {
        *KEYS
    }
    assert {"personalization.tau", "strategy.server_lr", "engine.nodes"} <= {*KEYS}


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", ".001", "'0.001'"])
def test_numbers_that_yaml_takes_for_text_are_numbers(text: str) -> None:
    """YAML 1.1 reads 1e-3, without a dot, as text."""
    sets = [f"train.optimizers.item.lr={text}", f"strategy.server_lr={text}"]
    found = load_experiment({"data": "synthetic", "strategy": "fedadam"}, sets)
    assert found.train.optimizers.item.lr == 1e-3
    assert found.strategy.model_dump()["server_lr"] == 1e-3


YAMLS: Mapping[str, tuple[str, list[str]]] = {
    "empty": ("", ["x.yaml", "mapping", "empty"]),
    "only a comment": ("# later\n", ["x.yaml", "mapping", "empty"]),
    "a list": ("- data\n- model\n", ["x.yaml", "mapping", "a list"]),
    "text": ("model:mf\n", ["x.yaml", "mapping", "model:mf"]),
    "cut off": ("seed: 0\ndata: {name: [", ["x.yaml: line 2", "YAML"]),
    "a tab": ("seed: 0\n\tdata: x\n", ["x.yaml: line 2", "YAML"]),
    "a key twice": ("seed: 0\ndata: synthetic\nseed: 1\n", ["line 3", "'seed'", "line 1"]),
    "a nested key twice": ("data: {name: csv, name: inter}\n", ["line 1", "'name'"]),
    "no such day": ("data: synthetic\nseed: 2024-13-45\n", ["line 2", "2024-13-45", "quotes"]),
    "code": ("data: !!python/object:os.system x\n", ["line 1", "YAML"]),
    "two documents": ("data: synthetic\n---\ndata: synthetic\n", ["line 2", "YAML"]),
    "no data": ("model: mf\n", ["x.yaml", "data: is missing"]),
    "no name": ("data: {users: 3}\n", ["data", "'name'", "synthetic"]),
    "a number as key": ("data: synthetic\n1: 2\n", ["1: unknown key"]),
}


@pytest.mark.parametrize("case", YAMLS)
def test_a_bad_file(command: Fedrec, here: Path, case: str) -> None:
    text, named = YAMLS[case]
    (here / "x.yaml").write_text(text, encoding="utf-8")
    refused(command, of(config="x.yaml"), named)


def test_no_file(command: Fedrec, here: Path) -> None:
    refused(command, of(config="nowhere/x.yaml"), ["nowhere/x.yaml", "no such file", "YAML"])
    refused(command, of(config="smal.yaml"), ["no such file", "did you mean 'small.yaml'"])
    refused(command, of(config="."), ["Is a directory", "YAML"])
    (here / "x.yaml").write_bytes(b"\xff\xfe\x00")
    refused(command, of(config="x.yaml"), ["x.yaml", "UTF-8"])
