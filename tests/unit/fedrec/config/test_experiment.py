"""An experiment is read whole or refused in one line that names the field."""

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


def test_the_defaults() -> None:
    experiment = load_experiment(MINIMAL)
    assert isinstance(experiment.model, MatrixFactorization)
    assert experiment.strategy == FedAdam(server_optimizer={"lr": 0.005})
    assert (
        experiment.personalization
        == load_experiment({**MINIMAL, "personalization": "none"}).personalization
    )
    assert (experiment.seed, experiment.clients.by, experiment.engine.name) == (0, "user", "auto")


# --set ---------------------------------------------------------------------------------------


def test_set_takes_dotted_keys_and_yaml_values() -> None:
    experiment = load_experiment(
        MINIMAL,
        [
            "seed=7",
            "model.embedding_dim=8",
            "train.optimizers.private.lr=1e-1",
            "data.split.name=ratio",
            "rounds.patience=null",
            "evaluate.metrics=[mrr, recall@3]",
            "strategy=fedadam",
            "strategy.server_optimizer.beta1=0.5",
            "personalization={name: plgc, tau: 2}",
        ],
    )
    assert experiment.seed == 7
    assert experiment.model == MatrixFactorization(embedding_dim=8)
    assert experiment.train.optimizers.private.lr == 0.1
    assert experiment.data.split.name == "ratio"
    assert experiment.rounds.patience is None
    assert experiment.evaluate.metrics == ("mrr", "recall@3")
    assert experiment.strategy == FedAdam(server_optimizer={"beta1": 0.5, "lr": 0.005})
    assert experiment.personalization == PLGC(tau=2)


def test_set_does_not_change_the_document() -> None:
    document = {**MINIMAL, "rounds": {"count": 3}}
    load_experiment(document, ["rounds.count=9", "data.users=17"])
    assert document == {**MINIMAL, "rounds": {"count": 3}}


# YAML ----------------------------------------------------------------------------------------


def read(tmp_path: Path, text: str) -> Experiment:
    path = tmp_path / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return load_experiment(path)


def test_a_plug_in_of_the_users_own_keeps_its_name(tmp_path: Path) -> None:
    name = "tests.contracts.own_models:BiasedMF"
    experiment = load_experiment({**MINIMAL, "model": {"name": name, "embedding_dim": 9}})
    assert yaml.safe_load(experiment.to_yaml())["model"] == {"name": name, "embedding_dim": 9}
    assert read(tmp_path, experiment.to_yaml()) == experiment


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
                "client_rule": st.sampled_from(["none", {"name": "proximal", "mu": 0.5}]),
                "aggregation": st.sampled_from(["median", {"average": "sum"}, {"name": "mean"}]),
                "server_optimizer": st.fixed_dictionaries({"lr": numbers}),
            }
        ),
        "rounds": st.fixed_dictionaries({"cohort_fraction": st.none() | st.floats(0.01, 1)}),
        "evaluate": st.fixed_dictionaries(
            {
                "metrics": st.lists(
                    st.sampled_from(["mrr", "ndcg@3", "recall@10"]), min_size=1, unique=True
                )
            }
        ),
        "engine": st.fixed_dictionaries({"nodes": st.just("auto") | st.integers(1, 9)}),
    }
)


@settings(max_examples=50, deadline=None)
@given(document=experiments)
def test_what_is_written_is_read_back(
    document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    experiment = load_experiment(document)
    text = experiment.to_yaml()
    again = read(tmp_path_factory.mktemp("yaml"), text)
    assert again == experiment
    assert again.to_yaml() == text
    assert again.train.optimizers.item.lr == document["train"]["optimizers"]["item"]["lr"]


def test_an_experiment_is_a_frozen_value() -> None:
    experiment = load_experiment({**MINIMAL, "model": "popularity"})
    assert experiment.model == Popularity()
    again = load_experiment({**MINIMAL, "model": "popularity"})
    assert hash(experiment.train) == hash(again.train)
    with pytest.raises(ConfigError, match="seed: a frozen"):
        experiment.seed = 3  # type: ignore[misc]


def test_python_takes_what_yaml_takes() -> None:
    """Short forms, instances and classes; as keywords, as a mapping, and as overrides."""
    sections = {"data": "synthetic", "strategy": "fedadam", "engine": "serial", "model": "mf"}
    named = load_experiment({**sections, "engine": {"name": "serial"}})
    assert Experiment(**sections) == Experiment.model_validate(sections) == named
    assert Experiment(**{**sections, "model": MatrixFactorization, "strategy": FedAdam()}) == named
    changed = load_experiment(
        named, {"strategy.server_optimizer.beta1": 0.5, "engine": "ray", "seed": 3}
    )
    again = load_experiment(
        sections, ["strategy.server_optimizer.beta1=0.5", "engine=ray", "seed=3"]
    )
    assert changed == again
    assert (named.seed, changed.seed, changed.engine.name) == (0, 3, "ray")


def test_paths_begin_at_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.yaml").write_text("data: {name: csv, path: ~/r.csv}", encoding="utf-8")
    for experiment in (
        load_experiment("~/x.yaml"),
        Experiment(data={"name": "csv", "path": "~/r.csv"}),
    ):
        assert experiment.data.model_dump()["path"] == tmp_path / "r.csv"
