"""Each refused input, and the fragments that its message holds.

The same table serves overrides (``--set``), files and Python: every case is given in the form in
which a user would write it, and refused in one line without pydantic's text.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedrec.config.experiment import Experiment, load_experiment
from fedrec.config.yaml import parse_yaml
from fedrec.errors import ConfigError, did_you_mean

MF = "fedrec.models.mf:MatrixFactorization"
SETS: Mapping[str, tuple[str, ...]] = {
    # override: fragments
    "engine.address=ray://head:10001": ("engine.address: ray://head:10001 is for Ray's client",),
    "rounds.count=many": ("rounds.count: expected a whole number, got 'many'",),
    "rounds.count=2.5": ("rounds.count", "whole number", "2.5"),
    "rounds.count=null": ("rounds.count", "null"),
    "rounds.count=": ("rounds.count", "null"),
    "rounds.count=true": ("rounds.count", "true"),
    "rounds.count=yes": ("rounds.count", "'yes'"),
    "rounds.count=1:30": ("rounds.count", "'1:30'"),
    "rounds.count=0b11": ("rounds.count", "'0b11'"),
    "rounds.count=0": ("rounds.count: expected 1 or more, got 0",),
    "rounds.count=[": ("--set rounds.count=[", "YAML"),
    "rounds.count={a: 1, a: 2}": ("--set", "'a'", "already"),
    "rounds.count=!!binary x": ("--set", "!!binary"),
    "rounds.count.x=1": ("--set rounds.count.x=1: 'count' is a value",),
    "train.optimizers.item.lr=off": ("train.optimizers.item.lr", "'off'"),
    "train.optimizers.item.lr=-1": ("train.optimizers.item.lr", "more than 0", "-1"),
    "train.optimizers.item.lr=.nan": ("train.optimizers.item.lr", "finite"),
    "train.optimizers.item.lr=.inf": ("train.optimizers.item.lr", "finite"),
    "train.optimizers.private.nam=sgd": ("train.optimizers.private.nam", "did you mean 'name'"),
    "train.optimizers.private=adamm": ("train.optimizers.private.name", "'adam'", "'adamm'"),
    "train.optimizers.item=adagrad": ("train.optimizers.item.name", "'sgd'", "'adagrad'"),
    "train.reduction=no": ("train.reduction: expected 'sum' or 'mean', got 'no'",),
    "train.loss=mse": ("train.loss: expected 'bce' or 'bpr', got 'mse'",),
    "train.batch_size=ful": ("train.batch_size: expected a whole number or 'full', got 'ful'",),
    "train.batch_size=0": ("train.batch_size: expected 1 or more or 'full', got 0",),
    "train.negative=1": ("train.negative: unknown key (did you mean 'negatives'?)",),
    "train=3": ("train: expected a mapping of keys to values, got 3",),
    "train=''": ("train: expected a mapping", "got ''"),
    "rounds='{count: 3}'": ("rounds: expected a mapping", "'{count: 3}'"),
    "rounds.count=3\nseed: 4": ("--set rounds.count=3 seed: 4", "line 2"),
    "train=null": ("train", "mapping", "null"),
    "train={1: 2}": ("train.1: unknown key", "text"),
    "train.item_lr=1": ("train.item_lr", "new name", "train.optimizers.item.lr"),
    "train.local_optimizer.lr=1": ("train.local_optimizer: ", "write train.optimizers.private"),
    "train.kernel=reference": ("train.kernel", "train.backend"),
    "seed=-1": ("seed: expected 0 or more, got -1",),
    "seed=x": ("seed: expected a whole number, got 'x'",),
    "seed=2024-01-01": ("seed", "whole number"),
    f"seed={2**63}": ("seed", "less than", str(2**63)),
    "seed.x=1": ("seed", "whole number"),
    "sed=1": ("sed: unknown key (did you mean 'seed'?)",),
    "rounds={cohort_size: 2, cohort_fraction: 0.5}": ("rounds.cohort_fraction", "cohort_size"),
    "rounds.cohort_fraction=1.5": ("rounds.cohort_fraction", "1 or less"),
    "rounds.cohort_size=0": ("rounds.cohort_size: expected 1 or more or 'all', got 0",),
    "engine=rya": ("engine.name: expected 'auto', 'serial', 'ray' or 'flower', got 'rya'",),
    "engine=null": ("engine", "null"),
    "engine.workers=many": ("engine.workers: expected a whole number or 'auto', got 'many'",),
    "engine.device=gpu": ("engine.device: expected auto, cpu, cuda or cuda:N, got 'gpu'",),
    "engine.memory=2 gigs": ("engine.memory: expected bytes, such as 500MiB or 2GiB",),
    "engine.memory=1KiB": ("engine.memory: expected 1048576 or more, got 1024",),
    "engine.precision=fp8": ("engine.precision: expected 'float32', 'bf16' or 'fp16', got 'fp8'",),
    "engine.nodes=0": ("engine.nodes: expected 1 or more or 'auto', got 0",),
    "data=[a]": ("data", "mapping", "'name'"),
    "data={users: 3}": ("data", "'name'", "synthetic"),
    "data=synthetik": ("data: 'synthetik'", "did you mean 'synthetic'"),
    "data.usrs=1": ("data.usrs: unknown key (did you mean 'users'?)",),
    "data.split.name=loo": ("data.split.name: expected 'leave",),
    "data.split={name: ratio, valid: 0.6, test: 0.5}": ("data.split", "below 1"),
    "clients.by=random": ("clients.by: random needs 'count'",),
    "clients.by=column": ("clients.by: column needs 'column'",),
    "clients.count=0": ("clients.count: expected 1 or more, got 0",),
    "model=3": ("model: expected a mapping with a 'name', got 3",),
    "model.name=3": ("model.name", "text", "3"),
    "model=mff": ("model: 'mff'", "did you mean 'mf'"),
    "model.embeding_dim=8": ("model.embeding_dim: unknown key (did you mean 'embedding_dim'?)",),
    "model=nowhere:Own": ("model: nowhere:Own", "beside the YAML"),
    "model=fedrec.models.mf:Nope": ("model", "'fedrec.models.mf'", "'Nope'", "mf.py"),
    "model=fedrec.config.experiment:Train": ("model", "not a plug-in class"),
    "model=fedrec.data:Synthetic": ("model", "Model", "Baseline"),
    "model='nowhere:'": ("model", "package.module:Class"),
    "personalization=off": ("personalization: 'off'",),
    f"personalization={MF}": ("personalization", "Personalization", MF),
    "personalization={name: none, tau: 1}": ("personalization.tau: unknown key",),
    "personalization={name: plgc, tau: -1}": ("personalization.tau: expected 0 or more",),
    "personalization={name: plgc, tau: true}": ("personalization.tau: expected a number",),
    "personalization={name: plgc, branch: x}": ("personalization.branch", "'similarity'"),
    "personalization={name: plgc, local: kernel}": ("personalization.branch", "similarity"),
    "strategy=fedavgg": ("strategy: 'fedavgg'", "did you mean 'fedavg'"),
    "strategy.server_optimizer.beta1=1": ("strategy.server_optimizer.beta1: expected less than 1",),
    "strategy.server_optimizer=adamm": ("strategy.server_optimizer: 'adamm'", "mean 'adam'"),
    "strategy.server_optimizer=mean": (
        "strategy.server_optimizer: 'mean'",
        "known: adagrad, adam, sgd",
    ),
    "strategy.aggregation=strategies:FedAvg": ("strategy.aggregation", "strategies.aggregations"),
    "strategy.aggregation.averge=sum": ("strategy.aggregation.averge", "mean 'average'"),
    "strategy={name: scaffold, aggregation: {average: sum}}": (
        "strategy.aggregation: the client rule scaffold needs the mean with average: cohort",
        "got average: sum",
    ),
    "strategy={client_rule: fednova, aggregation: median}": ("average: cohort, got median",),
    "strategy.denominator=cohort": ("strategy.denominator", "write strategy.aggregation.average"),
    "strategy.server_lr=1": ("strategy.server_lr", "write strategy.server_optimizer.lr"),
    "strategy={name: fedprox, mu: 1}": ("strategy.mu", "write strategy.client_rule.mu"),
    "evaluate.metrics=mrr": ("evaluate.metrics: expected a list, got 'mrr'",),
    "evaluate.metrics=[]": ("evaluate.metrics", "at least one"),
    "evaluate.metrics=[3]": ("evaluate.metrics.0: expected text, got 3",),
    "evaluate.metrics=[ndgc@10]": ("evaluate.metrics: 'ndgc'", "did you mean 'ndcg'"),
    "evaluate.metrics=[ndcg]": ("evaluate.metrics", "such as ndcg@10"),
    "evaluate.metrics=[ndcg@0]": ("evaluate.metrics", "from 1"),
    "evaluate.metrics=[ndcg@ten]": ("evaluate.metrics", "ndcg@k"),
    "evaluate.metrics=[gini@5]": ("evaluate.metrics", "per user"),
    f"evaluate.metrics=['{MF}@5']": ("evaluate.metrics", "not a metric"),
    "rounds": ("--set rounds: expected dotted.key=value",),
    "=3": ("--set =3: expected dotted.key=value",),
    "a..b=1": ("--set a..b=1: expected dotted.key=value",),
}
FILES: Mapping[str, tuple[str, ...]] = {
    # content: fragments
    "": ("mapping", "empty"),
    "# only a comment\n": ("mapping", "empty"),
    "- data\n- model\n": ("mapping with sections such as 'data'", "a list"),
    "model:mf\n": ("mapping", "model:mf"),
    "seed: 0\ndata: {name: [": ("line 2: not valid YAML",),
    "data: {path: ${HOME}/x}\n": ("line 1: not valid YAML", r"with braces needs quote marks"),
    "seed: 0\n\tdata: x\n": ("line 2: not valid YAML", r"'\t'"),
    "data: synthetic\n x: 1\n": ("line 2: not valid YAML",),
    "seed: 0\ndata: synthetic\nseed: 1\n": ("line 3", "'seed'", "line 1"),
    "data: {name: csv, name: inter}\n": ("line 1", "'name'"),
    "data: {name: csv, 'name': inter}\n": ("line 1", "'name'"),
    "data: !!python/object:os.system x\n": ("line 1", "tag", "not supported"),
    "data: synthetic\n---\ndata: synthetic\n": ("line 2", "single document"),
    "data: *nowhere\n": ("line 1", "alias"),
    "data: &a {x: *a}\n": ("data", "'name'"),
    "data: " + "[" * 2000: ("nested too deeply",),
    "seed: " + "9" * 5000: ("line 1", "int"),
    "data: \x00\n": ("not valid unicode: special characters are not allowed",),
    "model: mf\n": ("data: is missing",),
    "data: synthetic\n1: 2\n": ("1: unknown key",),
    "data: synthetic\nnull: 2\n": ("null: unknown key",),
    "data: synthetic\n[a]: 2\n": ("line 2",),
}


@pytest.mark.parametrize("assignment", SETS)
def test_a_refused_override(assignment: str) -> None:
    base = {"data": {"name": "synthetic"}, "rounds": {"count": 3}}
    with pytest.raises(ConfigError) as caught:
        load_experiment(base, ["rounds.count=3", assignment])
    said = str(caught.value)
    for fragment in SETS[assignment]:
        assert fragment in said
    assert "\n" not in said
    assert "pydantic" not in said
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize(
    "assignment", [each for each in SETS if "=" in each[1:] and "." not in each.split("=")[0]]
)
def test_python_refuses_in_the_same_words(assignment: str) -> None:
    key, _, text = assignment.partition("=")
    with pytest.raises(ConfigError) as caught:
        Experiment(**{"data": "synthetic", key: parse_yaml(text)})
    for fragment in SETS[assignment]:
        assert fragment in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("content", FILES, ids=lambda text: text[:20])
def test_a_refused_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    for fragment in (f"{path}: ", *FILES[content]):
        assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_bytes(b"\xff\xff\x00")
    for path, fragments in {
        "small.yaml": ["small.yaml", "not valid utf-8", "byte 0"],
        "smal.yaml": ["no such file", "did you mean", "small.yaml", "YAML"],
        "nowhere/x.yaml": ["no such file", "YAML"],
        ".": ["is a directory", "YAML"],
    }.items():
        with pytest.raises(ConfigError) as caught:
            load_experiment(tmp_path / path)
        for fragment in fragments:
            assert fragment in str(caught.value)


def test_all_faults_are_reported_together() -> None:
    """Also of nested sections, renamed keys and plug-ins; each is a line of the command line."""
    values = {"sed": 1, "train": {"loss": "x", "item_lr": 1}, "model": {"name": "mf", "dim": 3}}
    with pytest.raises(ConfigError) as caught:
        load_experiment(values, ["rounds.count=0"])
    said = [str(fault) for fault in caught.value.faults]
    for field in ("data: is m", "sed: unk", "train.loss: ", "train.item_lr: ", "model.dim: "):
        assert sum(f"experiment: {field}" in each for each in said) == 1
    assert len(said) == 6


def test_a_word_is_suggested_only_if_it_is_near(tmp_path: Path) -> None:
    assert did_you_mean("users", ["user", "short_users"]) == " (did you mean 'user'?)"
    assert did_you_mean("users", ["short_users"]) == " (known: short_users)"
    assert did_you_mean("users", []) == ""
    assert did_you_mean("MF", ["mf", "neumf"]) == " (did you mean 'mf'?)"
    assert did_you_mean("zzz", map(str, range(100))).endswith(", 25, 26 and 80 more)")
    for other, said in (
        (None, "no such file or directory; "),
        ("e", "(known: "),
        ("nopes", "did you mean '"),
    ):
        if other:
            (tmp_path / f"{other}.yaml").touch()
        with pytest.raises(ConfigError) as caught:
            load_experiment(tmp_path / "nope.yaml")
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ([3], "--set 3: expected dotted.key=value"),
        ({3: 3}, "3: unknown key"),
        ({"": 3}, "expected dotted.key=value"),
    ],
)
def test_overrides_of_another_type_are_refused_in_one_line(sets: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment({"data": "synthetic"}, sets)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
