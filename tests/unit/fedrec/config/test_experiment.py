"""An experiment is read whole or refused in one line that names the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.baselines import Popularity
from fedrec.config.experiment import Experiment, load_experiment
from fedrec.errors import ConfigError
from fedrec.models import MatrixFactorization
from fedrec.personalization import PLGC
from strategies import FedAdam
from tests.planted import rates

MINIMAL = {"data": {"name": "synthetic", "users": 50}}


def refused(document: dict[str, Any], *sets: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_experiment(document, sets)
    said = str(caught.value)
    assert "\n" not in said
    return said


UNKNOWN = [
    ({"sed": 1}, "sed: unknown key (did you mean 'seed'?)"),
    ({"rounds": {"cout": 1}}, "rounds.cout: unknown key (did you mean 'count'?)"),
    ({"rounds": {"max_failure": 1}}, "rounds.max_failure: unknown key (did you mean 'max_failur"),
    ({"train": {"negative": 1}}, "train.negative: unknown key (did you mean 'negatives'?)"),
    (
        {"train": {"optimizers": rates(1.0, {"nam": "sgd"})}},
        "train.optimizers.private.nam: unknown key (did",
    ),
    ({"model": {"name": "mf", "embeding_dim": 3}}, "model.embeding_dim: unknown key (did you mea"),
    ({"model": {"nam": "mf"}}, "model.nam: unknown key"),
    ({"strategy": {"name": "fedavg", "server_rl": 1}}, "strategy.server_rl: unknown key (did you"),
    ({"strategy": {"name": "fedavg", "beta1": 0.9}}, "strategy.beta1: unknown key (known: averag"),
    ({"personalization": {"name": "plgc", "tua": 1}}, "personalization.tua: unknown key (did you"),
    ({"personalization": {"name": "none", "tau": 1}}, "personalization.tau: unknown key"),
    ({"data": {"name": "synthetic", "usrs": 1}}, "data.usrs: unknown key (did you mean 'users'?)"),
    ({"data": {"name": "synthetic", "split": {"sed": 1}}}, "data.split.sed: unknown key (did you"),
    ({"evaluate": {"evry": 1}}, "evaluate.evry: unknown key (did you mean 'every'?)"),
    ({"engine": {"node": 1}}, "engine.node: unknown key (did you mean 'nodes'?)"),
    ({"clients": {"by": "user", "cuont": 1}}, "clients.cuont: unknown key (did you mean 'count'?)"),
    ({"model": "mff"}, "model: 'mff' is not in the table of models (did you mean 'mf'?)"),
    ({"strategy": "fedavgg"}, "strategy: 'fedavgg' is not in the table of strategies (did you mea"),
    ({"data": "ml-100"}, "data: 'ml-100' is not in the table of data (did you mean 'ml-100k'?)"),
    (
        {"personalization": "plcg"},
        "'plcg' is not in the table of personalization (did you mean 'pl",
    ),
]
WRONG = [
    ({"seed": -1}, "seed: expected 0 or more, got -1"),
    ({"seed": "x"}, "seed: expected a whole number, got 'x'"),
    ({"seed": 1.5}, "seed: expected a whole number, got 1.5"),
    ({"seed": True}, "seed: expected a number or a word, got true"),
    ({"train": {"negatives": True}}, "train.negatives: expected a number or a word, got true"),
    ({"train": None}, "train: expected a mapping of keys to values, got null"),
    ({"train": [1]}, "train: expected a mapping of keys to values, got [1]"),
    ({"train": {"optimizers": rates(0)}}, "train.optimizers.item.lr: expected more than 0, got 0"),
    (
        {"train": {"optimizers": rates(float("nan"))}},
        "train.optimizers.item.lr: expected a finite number",
    ),
    (
        {"train": {"optimizers": rates(float("inf"))}},
        "train.optimizers.item.lr: expected a finite number",
    ),
    ({"train": {"batch_size": "ful"}}, "train.batch_size: expected a whole number or 'full', got"),
    ({"train": {"batch_size": 0}}, "train.batch_size: expected a number from 1, or 'full', got 0"),
    (
        {"train": {"optimizers": rates(1.0, {"name": "x"})}},
        "train.optimizers.private.name: expected 'adam'",
    ),
    ({"train": {"loss": "mse"}}, "train.loss: expected 'bce' or 'bpr', got 'mse'"),
    ({"rounds": {"count": 0}}, "rounds.count: expected 1 or more, got 0"),
    ({"rounds": {"cohort_size": 0}}, "cohort_size: expected a number from 1, or 'all'"),
    ({"rounds": {"cohort_size": 2, "cohort_fraction": 0.5}}, "excludes cohort_size; give one of"),
    ({"rounds": {"cohort_fraction": 1.5}}, "rounds.cohort_fraction: expected"),
    ({"model": 3}, "model: expected a mapping with a 'name', got 3"),
    ({"model": {"name": "mf", "embedding_dim": 0}}, "model.embedding_dim: expected 1 or more"),
    ({"model": "fedrec.nothing:X"}, "model: fedrec.nothing:X cannot be imported"),
    ({"model": "fedrec.models:Nope"}, "model: module 'fedrec.models' has no 'Nope'"),
    (
        {"model": "fedrec.config.experiment:Train"},
        "fedrec.config.experiment:Train is not a plug-in class of fedrec",
    ),
    ({"model": "fedrec.data:Synthetic"}, "model: fedrec.data:Synthetic"),
    ({"strategy": {"name": "fedadam", "beta1": 1}}, "strategy.beta1: expected less than 1"),
    ({"personalization": {"name": "plgc", "branch": "x"}}, "personalization.branch: expected 's"),
    ({"personalization": {"name": "plgc", "tau": -1}}, "personalization.tau: expected 0 or more"),
    ({"personalization": {"name": "plgc", "tau": True}}, "personalization.tau: expected a number"),
    ({"data": {"name": "synthetic", "interactions_per_user": -1}}, "data.interactions_per_user: "),
    ({"data": {"name": "synthetic", "users": 3}}, "taste_groups: expected at most users, which"),
    ({"data": {"name": "synthetic", "split": {"name": "loo"}}}, "data.split.name: expected 'leave"),
    (
        {"data": {"name": "synthetic", "split": {"valid": 0.5, "test": 0.6}}},
        "data.split: valid + t",
    ),
    ({"data": {}}, "data: the key 'name' is missing"),
    ({"evaluate": {"metrics": ["ndgc@10"]}}, "'ndgc' is not in the table of metrics (did you mean"),
    ({"evaluate": {"metrics": ["ndcg"]}}, "metric 'ndcg': expected ndcg@k, such as ndcg@10"),
    ({"evaluate": {"metrics": ["ndcg@0"]}}, "metric 'ndcg@0': expected ndcg@k with k a number fro"),
    ({"evaluate": {"metrics": ["ndcg@ten"]}}, "metric 'ndcg@ten': expected ndcg@k"),
    ({"evaluate": {"metrics": ["coverage@5"]}}, "the first metric chooses the round and must be p"),
    ({"evaluate": {"metrics": []}}, "expected at least one metric"),
    ({"evaluate": {"metrics": "ndcg@10"}}, "evaluate.metrics: expected a list, got 'ndcg@10'"),
    ({"clients": {"by": "random"}}, "by: random needs 'count', the number of clients"),
    ({"clients": {"by": "taste"}}, "by: taste needs 'count', the number of clients"),
    ({"clients": {"by": "column"}}, "by: column needs 'column', the name of a user column"),
    ({"clients": {"by": "random", "count": 0}}, "clients.count: expected 1 or more, got 0"),
    ({"engine": {"name": "rayy"}}, "engine.name: expected 'auto', 'serial', 'ray' or 'flower'"),
    ({"engine": {"workers": "many"}}, "engine.workers: expected a whole number or 'auto', got"),
    ({"engine": {"nodes": 0}}, "engine.nodes: expected a number from 1, or 'auto', got 0"),
]


@pytest.mark.parametrize(("part", "said"), UNKNOWN + WRONG, ids=lambda x: str(x)[:48])
def test_a_fault_is_named(part: dict[str, Any], said: str) -> None:
    found = refused({**MINIMAL, **part})
    assert said in found
    assert "pydantic" not in found.lower()


def test_all_faults_are_told_at_once() -> None:
    said = refused({"sed": 1, "train": {"optimizers": rates(-1), "loss": "x"}})
    for field in ("data: is missing", "sed: unknown", "train.optimizers.item.lr: ", "train.loss: "):
        assert field in said


def test_the_defaults() -> None:
    found = load_experiment(MINIMAL)
    assert isinstance(found.model, MatrixFactorization)
    assert found.strategy == FedAdam(server_lr=0.005)
    assert (
        found.personalization
        == load_experiment({**MINIMAL, "personalization": "none"}).personalization
    )
    assert (found.seed, found.clients.by, found.engine.name) == (0, "user", "auto")


# --set ---------------------------------------------------------------------------------------


def test_set_takes_dotted_keys_and_yaml_values() -> None:
    found = load_experiment(
        MINIMAL,
        [
            "seed=7",
            "model.embedding_dim=8",
            "train.optimizers.private.lr=1e-1",
            "data.split.name=ratio",
            "rounds.patience=null",
            "evaluate.metrics=[mrr, recall@3]",
            "strategy=fedadam",
            "strategy.beta1=0.5",
            "personalization={name: plgc, tau: 2}",
        ],
    )
    assert found.seed == 7
    assert found.model == MatrixFactorization(embedding_dim=8)
    assert found.train.optimizers.private.lr == 0.1
    assert found.data.split.name == "ratio"
    assert found.rounds.patience is None
    assert found.evaluate.metrics == ("mrr", "recall@3")
    assert found.strategy == FedAdam(beta1=0.5, server_lr=0.005)
    assert found.personalization == PLGC(tau=2)


def test_set_does_not_change_the_document() -> None:
    document = {**MINIMAL, "rounds": {"count": 3}}
    load_experiment(document, ["rounds.count=9", "data.users=17"])
    assert document == {**MINIMAL, "rounds": {"count": 3}}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "--set seed: expected dotted.key=value"),
        ("=3", "--set =3: expected dotted.key=value"),
        ("seed={", "--set seed={: the value is not valid YAML"),
        (
            "train.optimizers.item.lr.x=1",
            "--set train.optimizers.item.lr.x=1: 'lr' is a value, it has no keys",
        ),
        ("train.negative=1", "train.negative: unknown key (did you mean 'negatives'?)"),
        ("model.embeding_dim=8", "model.embeding_dim: unknown key (did you mean 'embedding_dim'?)"),
        ("train.optimizers.item.lr=abc", "train.optimizers.item.lr: expected a number, got 'abc'"),
        ("a..b=1", "--set a..b=1: expected dotted.key=value"),
    ],
)
def test_a_bad_set_is_named(override: str, said: str) -> None:
    assert said in refused({**MINIMAL, "train": {"optimizers": rates(1.0)}}, override)


# YAML ----------------------------------------------------------------------------------------


def read(tmp_path: Path, text: str) -> Experiment:
    path = tmp_path / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return load_experiment(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: {name: synthetic\nseed: 1\n", "line 2: not valid YAML"),
        ("seed: 1\ndata:\n\t- x\n", "line 3: not valid YAML: found character"),
        ("data: synthetic\n x: 1\n", "line 2: not valid YAML"),
        ("- data\n", "expected a mapping with sections such as 'data' and 'model'"),
        ("", "expected a mapping with sections"),
        ("data: !!python/object:os.system {}\n", "not valid YAML"),
    ],
)
def test_broken_yaml_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'experiment.yaml'}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.yaml: no such file; give the path of an experim"):
        load_experiment(tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_experiment(tmp_path)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00seed")
    with pytest.raises(ConfigError, match=r"x\.yaml: cannot be read"):
        load_experiment(path)


def test_a_plug_in_of_the_users_own_keeps_its_name(tmp_path: Path) -> None:
    name = "tests.contracts.own_models:BiasedMF"
    found = load_experiment({**MINIMAL, "model": {"name": name, "embedding_dim": 9}})
    assert yaml.safe_load(found.to_yaml())["model"] == {"name": name, "embedding_dim": 9}
    assert read(tmp_path, found.to_yaml()) == found


numbers = st.floats(1e-6, 1e3)
experiments = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**63 - 1),
        "data": st.fixed_dictionaries(
            {
                "name": st.just("synthetic"),
                "users": st.integers(8, 10**6),
                "interactions_per_user": numbers,
                "split": st.fixed_dictionaries(
                    {"name": st.sampled_from(["leave_one_out", "ratio"]), "seed": st.integers(0, 9)}
                ),
                "protocol": st.sampled_from(["clean", "legacy"]),
                "threshold": st.none() | numbers,
            }
        ),
        "clients": st.just({"by": "user"})
        | st.fixed_dictionaries({"by": st.just("taste"), "count": st.integers(1, 9)}),
        "model": st.sampled_from(["mf", "popularity"])
        | st.fixed_dictionaries({"name": st.just("mf"), "init_std": numbers}),
        "train": st.fixed_dictionaries(
            {
                "optimizers": st.builds(rates, numbers, st.fixed_dictionaries({"lr": numbers})),
                "batch_size": st.just("full") | st.integers(1, 99),
            }
        ),
        "personalization": st.just({"name": "none"})
        | st.fixed_dictionaries(
            {
                "name": st.just("plgc"),
                "branch": st.sampled_from(["similarity", "table"]),
                "centre": st.booleans(),
                "history_cap": st.none() | st.integers(1, 99),
                "gamma": numbers,
            }
        ),
        "strategy": st.fixed_dictionaries(
            {
                "name": st.sampled_from(["fedavg", "fedadam"]),
                "average": st.sampled_from(["per_row", "cohort", "sum"]),
                "server_lr": numbers,
            }
        ),
        "rounds": st.fixed_dictionaries({"cohort_fraction": st.none() | st.floats(0.01, 1)}),
        "evaluate": st.fixed_dictionaries(
            {"metrics": st.lists(st.sampled_from(["mrr", "ndcg@3", "recall@10"]), min_size=1)}
        ),
        "engine": st.fixed_dictionaries({"nodes": st.just("auto") | st.integers(1, 9)}),
    }
)


@settings(max_examples=50, deadline=None)
@given(document=experiments)
def test_what_is_written_is_read_back(
    document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = load_experiment(document)
    text = found.to_yaml()
    again = read(tmp_path_factory.mktemp("yaml"), text)
    assert again == found
    assert again.to_yaml() == text
    assert again.train.optimizers.item.lr == document["train"]["optimizers"]["item"]["lr"]


def test_an_experiment_is_a_frozen_value() -> None:
    found = load_experiment({**MINIMAL, "model": "popularity"})
    assert found.model == Popularity()
    again = load_experiment({**MINIMAL, "model": "popularity"})
    assert hash(found.train) == hash(again.train)
    with pytest.raises(ValueError, match="frozen"):
        found.seed = 3  # type: ignore[misc]
