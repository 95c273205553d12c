"""The experiment: what is run, as one frozen value, read from YAML or built in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from fedrec.baselines.base import Baseline
from fedrec.config.defaults import with_plugin_defaults
from fedrec.config.engine import Engine
from fedrec.config.errors import explain
from fedrec.config.plugin_fields import dump_plugin, resolve_plugin
from fedrec.config.rounds import Rounds
from fedrec.config.yaml import override, read_document
from fedrec.data.base import DataSet
from fedrec.data.clients import Clients
from fedrec.errors import ConfigError
from fedrec.evaluation.settings import Evaluate
from fedrec.models.base import Model
from fedrec.personalization.base import Personalization
from fedrec.plugins import Plugin, Section, find_beside, lookup
from fedrec.training.client_rule import client_rule_of
from fedrec.training.settings import Train
from fedrec.training.task import ClientTask

__all__ = ["Experiment", "load_experiment"]


class Experiment(Section):
    """One experiment, completely.

    Example:
        >>> Experiment.model_validate({"data": {"name": "synthetic", "users": 50}}).seed
        0
    """

    seed: int = Field(0, ge=0, lt=2**63)
    data: Annotated[DataSet, resolve_plugin("data", "", DataSet), dump_plugin("data")]
    clients: Clients = Clients()
    model: Annotated[
        Model | Baseline, resolve_plugin("models", "mf", Model, Baseline), dump_plugin("models")
    ] = Field(default_factory=lambda: lookup("models", "mf")(), validate_default=True)
    train: Train = Train()
    personalization: Annotated[
        Personalization,
        resolve_plugin("personalization", "none", Personalization),
        dump_plugin("personalization"),
    ] = Field(default_factory=lambda: lookup("personalization", "none")(), validate_default=True)
    strategy: Annotated[
        Plugin, resolve_plugin("strategies", "fedavg"), dump_plugin("strategies")
    ] = Field(default_factory=lambda: lookup("strategies", "fedavg")(), validate_default=True)
    rounds: Rounds = Rounds()
    evaluate: Evaluate = Evaluate()
    engine: Engine = Engine()

    @model_validator(mode="before")
    @classmethod
    def _fill_in_defaults(cls, values: Any) -> Any:
        return with_plugin_defaults(values) if isinstance(values, Mapping) else values

    def client_task(self) -> ClientTask:
        """Return what each client of the experiment computes.

        Raises:
            ConfigError: If the model is a centralised baseline, or its parameters do not fit.
        """
        if not isinstance(self.model, Model):
            raise ConfigError("model: a centralised baseline has no clients to train")
        return ClientTask(
            self.model,
            self.personalization,
            self.train,
            self.seed,
            self.data.protocol,
            client_rule=client_rule_of(self.strategy),
        )

    def to_yaml(self) -> str:
        """The experiment with every default written out; `load_experiment` reads it back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_experiment(source: str | Path | Mapping[str, Any], sets: Sequence[str] = ()) -> Experiment:
    """Read an experiment.

    Args:
        source: Path of a YAML file, or its content as a mapping. Relative paths inside stay
            relative to the working folder. A plug-in ``module:Class`` is found beside the file and
            in the working folder too.
        sets: Overrides as ``dotted.key=value``; the value is YAML.

    Raises:
        ConfigError: One line per fault: the field, what came, what was expected.
    """
    label = "experiment" if isinstance(source, Mapping) else str(source)
    document = dict(source) if isinstance(source, Mapping) else read_document(Path(source))
    for assignment in sets:
        document = override(document, assignment)
    beside = [] if isinstance(source, Mapping) else [Path(source).parent]
    # The folder of a run keeps the source of its plug-ins.
    beside += [folder / "source" for folder in beside]
    for section in document.values():
        name = section.get("name") if isinstance(section, Mapping) else section
        if isinstance(name, str):
            find_beside(name, [*beside, Path.cwd()])
    try:
        return Experiment.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{label}: " + "; ".join(map(str, explain(error)))) from error
