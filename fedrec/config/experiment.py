"""Compose the experiment, as one frozen value, from YAML or from Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from fedrec.baselines.base import Baseline
from fedrec.config.defaults import with_plugin_defaults
from fedrec.config.engine import Engine
from fedrec.config.rounds import Rounds
from fedrec.config.yaml import dump_yaml, read_document, with_overrides
from fedrec.data.base import DataSet
from fedrec.data.clients import Clients
from fedrec.errors import ConfigError, did_you_mean
from fedrec.evaluation.settings import Evaluate
from fedrec.models.base import Model
from fedrec.personalization.base import Personalization
from fedrec.plugins import (
    Plugin,
    Section,
    as_mapping,
    expand_path,
    lookup,
    name_of,
    searching,
    shown,
    table,
)
from fedrec.training.client_rule import client_rule_of
from fedrec.training.settings import Train
from fedrec.training.task import ClientTask

__all__ = ["Experiment", "load_experiment", "recorded_experiment"]


@dataclass(frozen=True)
class PluginField:
    """Marks a field that holds a plug-in: read from a name and options, written as these.

    Args:
        kind: The table of plug-ins, see `fedrec.plugins.table`.
        default: The name where none is given.
    """

    kind: str
    default: str = ""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return how pydantic reads and writes the field; its annotation says the base classes."""
        bases = get_args(source) or (source,)
        return core_schema.no_info_plain_validator_function(
            lambda value: self._read(value, bases),
            serialization=core_schema.plain_serializer_function_ser_schema(self._write),
        )

    def _read(self, value: Any, bases: tuple[type[Plugin], ...]) -> Plugin:
        options = as_mapping(value)
        if not isinstance(options, Mapping):
            advice = "; give a table as fedrec.data.Frame.of(table)" * (self.kind == "data")
            raise ValueError(f"expected a mapping with a 'name', got {shown(value)}{advice}")
        name = options.get("name", self.default)
        if not name:
            raise ValueError(f"the key 'name' is missing{did_you_mean('', table(self.kind))}")
        if not isinstance(name, str | type):
            raise ValueError(f"name: expected text, got {shown(name)}")
        plugin = lookup(self.kind, name)
        if not issubclass(plugin, bases):
            label = name if isinstance(name, str) else name.__qualname__
            expected = " or ".join(f"{base.__module__}.{base.__name__}" for base in bases)
            message = f"{label} is not one of the {self.kind}; expected a subclass of {expected}"
            raise ValueError(message)
        if isinstance(value, Plugin):
            return value
        return plugin.model_validate({k: v for k, v in options.items() if k != "name"})

    def _write(self, plugin: Plugin) -> dict[str, Any]:
        return {"name": name_of(self.kind, plugin), **plugin.model_dump(mode="json")}


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
    data: Annotated[DataSet, PluginField("data")]
    clients: Clients = Clients()
    model: Annotated[Model | Baseline, PluginField("models", "mf")] = Field(
        default_factory=lambda: lookup("models", "mf")(), validate_default=True
    )
    train: Train = Train()
    personalization: Annotated[Personalization, PluginField("personalization", "none")] = Field(
        default_factory=lambda: lookup("personalization", "none")(), validate_default=True
    )
    strategy: Annotated[Plugin, PluginField("strategies", "fedavg")] = Field(
        default_factory=lambda: lookup("strategies", "fedavg")(), validate_default=True
    )
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
    return _validated(with_overrides(document, sets), label, folders, copies)


def recorded_experiment(path: Path) -> Experiment:
    """Read the configuration of a run folder, with the plug-ins whose source it keeps.

    Args:
        path: Its ``config.yaml``.

    Raises:
        ConfigError: As `load_experiment`, and if another file hides a source of the run.
    """
    folders = [path.parent / "source", path.parent, Path()]
    return _validated(read_document(path), str(path), folders)


def _validated(
    document: Mapping[str, Any], label: str, folders: Sequence[Path], copies: Sequence[Path] = ()
) -> Experiment:
    try:
        with searching(folders, copies):
            return Experiment.model_validate(document)
    except ConfigError as error:
        raise ConfigError(*(f"{label}: {fault}" for fault in error.faults)) from None
