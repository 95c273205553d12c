"""Compose the experiment, as one frozen value, from YAML or from Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from fedrec.baselines.base import Baseline
from fedrec.config.defaults import with_plugin_defaults
from fedrec.config.engine import Engine
from fedrec.config.plugin_fields import dump_plugin, resolve_plugin
from fedrec.config.rounds import Rounds
from fedrec.config.yaml import dump_yaml, override, parse_yaml, read_document
from fedrec.data.base import DataSet
from fedrec.data.clients import Clients
from fedrec.errors import ConfigError
from fedrec.evaluation.settings import Evaluate
from fedrec.models.base import Model
from fedrec.personalization.base import Personalization
from fedrec.plugins import Plugin, Section, expand_path, find_references, lookup
from fedrec.training.client_rule import client_rule_of
from fedrec.training.settings import Train
from fedrec.training.task import ClientTask

__all__ = ["Experiment", "load_experiment"]


class Experiment(Section):
    """One experiment, completely.

    A section may be given as the name that stands for it, and a plug-in as an instance.

    Example:
        >>> Experiment(data={"name": "synthetic", "users": 50}, strategy="fedavg").seed
        0

    Raises:
        ConfigError: With all faults of the values, one line each.
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

    def __init__(self, /, **values: Any) -> None:
        find_references(values, [Path()])
        for name, value in values.items():
            if isinstance(value, type) and issubclass(value, Plugin):
                values[name] = value()
        super().__init__(**values)

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
            several_users=self.clients.by != "user",
        )

    def to_yaml(self) -> str:
        """Return the experiment as YAML, every default written out."""
        return dump_yaml(self.model_dump(mode="json"))


def load_experiment(
    source: Experiment | Mapping[str, Any] | str | Path,
    sets: Sequence[str] | Mapping[str, Any] = (),
) -> Experiment:
    """Read an experiment.

    Args:
        source: Path of a YAML file, its content as a mapping, or an experiment to change. Relative
            paths inside stay relative to the working folder. A plug-in ``module:Class`` is found
            beside the file and in the working folder too.
        sets: Overrides as texts ``dotted.key=value``, with a value in YAML, or as a mapping of
            dotted keys to values.

    Raises:
        ConfigError: One line per fault: the field, what came, what was expected.
    """
    label, folders, copies = "experiment", [Path()], list[Path]()
    if isinstance(source, Experiment):
        document: Mapping[str, Any] = {
            name: getattr(source, name) for name in Experiment.model_fields
        }
    elif isinstance(source, Mapping):
        document = source
    elif isinstance(source, str | Path):
        path = expand_path(source)
        label, folders, document = str(source), [path.parent, Path()], read_document(path)
        copies = [path.parent / "source"]  # the folder of a run keeps the source of its plug-ins
    else:
        raise ConfigError(
            "experiment: expected an Experiment, a mapping or the path of a YAML file, got "
            f"{type(source).__name__}"
        )
    for key, value, origin in _assignments(sets):
        document = override(document, key, value, origin)
    find_references(document, folders, copies)
    try:
        return Experiment.model_validate(dict(document))
    except ConfigError as error:
        raise ConfigError(*(f"{label}: {fault}" for fault in error.faults)) from None


def _assignments(sets: Sequence[str] | Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield key, value and origin of each override."""
    if isinstance(sets, Mapping):
        yield from ((key, value, f"'{key}'") for key, value in sets.items())
        return
    for assignment in [sets] if isinstance(sets, str) else sets:
        key, equals, text = assignment.partition("=")
        origin = f"--set {assignment}"
        if not equals:
            raise ConfigError(f"{origin}: expected dotted.key=value")
        try:
            yield key, parse_yaml(text), origin
        except ConfigError as error:
            raise ConfigError(f"{origin}: the value is {error}") from None
