"""Models and strategies bring defaults; what is written wins over them."""

from collections.abc import Iterator, Mapping
from functools import reduce
from operator import getitem
from typing import Any

import pytest
import yaml

from fedrec.config.experiment import Experiment, load_experiment
from fedrec.config.yaml import with_overrides
from fedrec.data.synthetic import Synthetic
from fedrec.errors import ConfigError
from fedrec.models import MatrixFactorization
from fedrec.plugins import table
from fedrec.training.optimizers import Optimizers, PrivateOptimizer
from fedrec.training.settings import Train
from strategies import FedAdam, FedAvg

DATA = {"name": "synthetic"}
MODELS = ["mf", "pfedrec", "neumf", "sasrec"]


@pytest.mark.parametrize("model", MODELS)
def test_the_defaults_of_a_model_fill_in_what_is_not_written(model: str) -> None:
    resolved = load_experiment({"data": DATA, "model": model}).model_dump(mode="json")
    defaults = table("models")[model].defaults
    assert defaults["strategy"]
    assert with_overrides(resolved, dict(flat(defaults))) == resolved


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values."""
    for key, value in values.items():
        below = flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else ()
        yield from below or [(prefix + key, value)]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("strategy", [None, "fedavg", "scaffold"])
def test_resolved_values_are_written_out_and_read_back(model: str, strategy: str | None) -> None:
    chosen = {} if strategy is None else {"strategy": strategy}
    experiment = load_experiment({"data": DATA, "model": model, **chosen})
    assert load_experiment(yaml.safe_load(experiment.to_yaml())) == experiment


@pytest.mark.parametrize(
    ("written", "key", "expected"),
    [
        ({"train": {"weight_decay": 0.0}}, ("train", "weight_decay"), 0.0),
        ({"train": Train(weight_decay=0.0)}, ("train", "weight_decay"), 0.0),
        ({"train": Train(negatives=2)}, ("train", "weight_decay"), 0.1),
        ({"rounds": {"patience": None}}, ("rounds", "patience"), None),
        (
            {"strategy": {"server_optimizer": {"lr": 3.0}}},
            ("strategy", "server_optimizer", "lr"),
            3.0,
        ),
        ({"strategy": {"server_optimizer": {"lr": 3.0}}}, ("strategy", "name"), "fedadam"),
        ({"strategy": "fedadam"}, ("strategy", "server_optimizer", "lr"), 0.005),
        (
            {"strategy": FedAdam(server_optimizer={"tau": 3.0})},
            ("strategy", "server_optimizer", "lr"),
            0.005,
        ),
        ({"strategy": "fedavg"}, ("strategy", "server_optimizer", "lr"), 1.0),
        (
            {"strategy": FedAvg(aggregation={"average": "sum"})},
            ("strategy", "aggregation", "average"),
            "sum",
        ),
        ({"model": {"embedding_dim": 3}}, ("strategy", "name"), "fedadam"),
        ({"model": "random"}, ("rounds", "count"), 100),
    ],
)
def test_what_is_written_wins(
    written: dict[str, Any], key: tuple[str, ...], expected: object
) -> None:
    resolved = Experiment.model_validate({"data": Synthetic(), **written}).model_dump(mode="json")
    assert reduce(getitem, key, resolved) == expected


def test_settings_deep_in_a_section_keep_their_neighbours() -> None:
    private = PrivateOptimizer(lr=0.5)
    for train in (
        {"optimizers": {"private": {"lr": 0.5}}},
        {"optimizers": Optimizers(private=private)},
        Train(optimizers=Optimizers(private=private)),
    ):
        experiment = Experiment.model_validate(
            {"data": DATA, "model": "pfedrec", "strategy": "fedavg", "train": train}
        ).train
        assert experiment.optimizers.private == private
        assert experiment.optimizers.shared.lr == 0.01  # of fedavg
        assert experiment.weight_decay == 0.1  # of the model


@pytest.mark.parametrize("written", [{"cohort_size": 7}, {"cohort_fraction": 0.5}])
def test_a_cohort_that_is_written_replaces_that_of_the_model(written: dict[str, Any]) -> None:
    rounds = load_experiment({"data": DATA, "model": "neumf", "rounds": written}).rounds
    assert rounds.model_dump(include=set(written)) == written


@pytest.mark.parametrize("bad", [{"train": 3}, {"model": "mff"}, {"model": 3}, {"strategy": 4}])
def test_faults_are_reported_as_they_were_written(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"experiment: {next(iter(bad))}: "):
        load_experiment({"data": DATA, **bad})


@pytest.mark.parametrize(
    "defaults",
    [{"rounds": 5}, {"train": {"lr": 1}}, {"trian": {}}, {"rounds": {"count": -1}}],
    ids=str,
)
@pytest.mark.parametrize("section", ["model", "strategy"])
def test_defaults_that_fit_no_experiment_are_told_by_the_name_of_their_class(
    section: str, defaults: Any
) -> None:
    base = MatrixFactorization if section == "model" else FedAdam
    plugin = type("Own", (base,), {"__module__": __name__, "defaults": defaults})
    with pytest.raises(ConfigError, match=r"Own\.defaults: ") as error:
        load_experiment({"data": DATA, section: plugin})
    assert "\n" not in str(error.value)
