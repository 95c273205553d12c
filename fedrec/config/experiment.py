"""Compose the experiment, as one frozen value, from YAML or from Python."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator
from pydantic_core import from_json

from fedrec.baselines.base import Baseline
from fedrec.compute.device import Resources
from fedrec.config.engine import Engine
from fedrec.config.fields import PluginField, PluginListField, PluginsField
from fedrec.config.rounds import COHORT, Rounds
from fedrec.config.yaml import dump_yaml, read_document, with_overrides
from fedrec.data.altered import of_clients
from fedrec.data.base import DataSet
from fedrec.data.catalogue import Catalogue
from fedrec.data.clients import Clients
from fedrec.errors import ConfigError, did_you_mean, printable
from fedrec.evaluation.settings import Evaluate
from fedrec.features.base import Encoder
from fedrec.imports import searching
from fedrec.models.base import Model
from fedrec.personalization.base import Personalization
from fedrec.plugins import (
    OURS,
    Plugin,
    Section,
    as_mapping,
    expand_path,
    lookup,
    name_of,
    with_paths,
)
from fedrec.training.client_rule import client_rule_of
from fedrec.training.settings import Train
from fedrec.training.task import ClientTask
from fedrec.transforms.attacks.base import Attack
from fedrec.transforms.base import Transform
from fedrec.types import IntArray, Split


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
    features: Annotated[Mapping[str, Encoder], PluginsField("features")] = Field(
        default_factory=dict
    )
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
    transforms: Annotated[tuple[Transform, ...], PluginListField("transforms")] = ()
    rounds: Rounds = Field(default_factory=Rounds)
    evaluate: Evaluate = Evaluate()
    engine: Engine = Engine()

    @model_validator(mode="before")
    @classmethod
    def _fill_in_defaults(cls, values: Any) -> Any:
        return _with_plugin_defaults(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        self.train.schedule.check(self.rounds.count)
        return self

    @model_validator(mode="after")
    def _transforms_fit(self) -> Self:
        attacks = [each for each in self.transforms if isinstance(each, Attack)]
        if len(attacks) > 1:
            raise ValueError(f"transforms: expected one attack, got {len(attacks)}")
        stage, last = 0, ""
        for place, transform in enumerate(self.transforms):
            if transform in self.transforms[:place]:
                twice = name_of("transforms", transform)
                raise ValueError(f"transforms: {twice} is given twice; leave one of them out")
            if transform.stage < stage or transform.stage == stage > 0:
                raise ValueError(
                    f"transforms: {name_of('transforms', transform)} may not follow {last}: first "
                    "those that change values, then one that sends fewer, then one that narrows "
                    "their type"
                )
            stage, last = transform.stage, name_of("transforms", transform)
            if attacks and place > self._place_of_attack and transform.remembers:
                advice = "set error_feedback: false" if transform.stage else "put it before"
                raise ValueError(f"transforms: attackers remember nothing of {last}; {advice}")
            if attacks and place < self._place_of_attack and transform.stage > 0:
                raise ValueError(f"transforms: {last} encodes updates; put it behind the attack")
        return self

    @property
    def attack(self) -> Attack | None:
        """The attack among the transforms; None: all clients are honest."""
        return next((each for each in self.transforms if isinstance(each, Attack)), None)

    def attackers_of(self, split: Split) -> IntArray:
        """Return the clients of a split, as transforms left it, that attack; int64, sorted."""
        if self.attack is None:
            return np.zeros(0, np.int64)
        return self.attack.attackers_in(split, self.seed)

    def honest_part(self, split: Split) -> Split:
        """Return the data of the clients that do not attack: those that rank."""
        attackers = self.attackers_of(split)
        if not len(attackers):
            return split
        return of_clients(split, np.setdiff1d(np.arange(split.n_clients), attackers))

    @property
    def _place_of_attack(self) -> int:
        places = (at for at, each in enumerate(self.transforms) if isinstance(each, Attack))
        return next(places, len(self.transforms))

    def transforms_around(self) -> tuple[tuple[Transform, ...], tuple[Transform, ...]]:
        """Return the transforms before an attack and those behind it; all before it without one."""
        at = self._place_of_attack
        return self.transforms[:at], self.transforms[at + 1 :]

    def check_features(self) -> None:
        """Check, before anything is encoded, that there are the features that the model needs.

        Raises:
            ConfigError: If one is not declared.
        """
        for name in self.model.needs_features if isinstance(self.model, Model) else ():
            if name not in self.features:
                advice = did_you_mean(name, self.features) or "; declare it in the section features"
                raise ConfigError(f"model: the items have no feature '{name}'{advice}")

    def client_task(
        self, catalogue: Catalogue | None = None, resources: Resources | None = None
    ) -> ClientTask:
        """Return what each client of the experiment computes.

        Args:
            catalogue: The items; None will do for a model that does not look at them.
            resources: What this process computes with; None: the CPU.

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
            payload=getattr(self.strategy, "payload", "shared"),
            measures=getattr(self.strategy, "measures", ()),
            transforms=self.transforms,
            several_users=self.clients.by != "user",
            catalogue=catalogue or Catalogue.empty(),
            resources=resources or Resources(),
        )

    def without_effect(self, run: Any) -> list[str]:
        """Say which features the model does not read; of a module nobody knows what it reads."""
        model = self.model
        if not isinstance(model, Model):
            return []
        if type(model).build is not Model.build and not model.needs_features:
            return []
        read = {name.removesuffix(".present") for name in run.task.frozen()}
        read |= {*model.needs_features}
        why = f"has no effect: {type(model).__name__} reads no feature of that name"
        return [f"features.{name}: {why}" for name in self.features if name not in read]

    def with_paths(self, change: Callable[[Path], Path]) -> Self:
        """Return the experiment with other paths of its data, features and devices."""
        features = {name: with_paths(each, change) for name, each in self.features.items()}
        sections = {"data": self.data, "rounds": self.rounds}
        changed = {name: with_paths(section, change) for name, section in sections.items()}
        return self.model_copy(update={**changed, "features": features})

    def paths(self) -> list[Path]:
        """Return the paths of its data and features; nodes need no file of devices."""
        paths: list[Path] = []

        def unchanged(path: Path) -> Path:
            paths.append(path)
            return path

        for section in (self.data, *self.features.values()):
            with_paths(section, unchanged)
        return paths

    def for_nodes(self) -> str:
        """Return the experiment as JSON, as nodes are told it: of files of data, only the names.

        Nothing in such a name is expanded where it is read.
        """
        return self.with_paths(lambda p: Path(re.sub(r"[^\w.-]", "_", p.name))).model_dump_json()

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


def received_experiment(text: str, folder: Path) -> Experiment:
    """Read what `Experiment.for_nodes` made.

    Args:
        text: What a server sent.
        folder: The node's own, which may hold plug-ins and copies of their source.

    Raises:
        ConfigError: As `load_experiment`, and if it is no JSON.
    """
    try:
        document = from_json(text)
    except ValueError as error:
        raise ConfigError(f"experiment: what the server sent is no JSON ({error})") from error
    return _validated(document, "experiment", [folder, Path()], [folder / "source"])


def _validated(
    document: Mapping[str, Any], label: str, folders: Sequence[Path], copies: Sequence[Path] = ()
) -> Experiment:
    try:
        with searching(folders, copies):
            return Experiment.model_validate(document)
    except ConfigError as error:
        raise ConfigError(*(printable(f"{label}: {fault}") for fault in error.faults)) from None


def _with_plugin_defaults(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return an experiment with the defaults of its strategy and of its model filled in.

    What is written wins over `Plugin.defaults` of the strategy, and that over the model's. The
    strategy's options are filled in only where the strategy is the one that the model names.

    Args:
        document: The experiment as it is written: sections are mappings, names or values.
    """
    chosen = dict(document)
    model = _class_of("models", chosen.get("model", "mf"), "mf")
    _check_defaults(model)
    usual = model.defaults.get("strategy", {})
    if not model.defaults:
        return chosen
    written = chosen.get("strategy", {})
    strategy = _class_of("strategies", written, usual.get("name", ""))
    _check_defaults(strategy)
    if strategy is _class_of("strategies", usual):
        chosen["strategy"] = _merged(usual, written)
    for plugin in (strategy, model):
        for section, defaults in plugin.defaults.items():
            written = chosen.get(section, {})
            if section != "strategy" and not isinstance(written, str):
                chosen[section] = _merged(defaults, written)
    return chosen


def _check_defaults(plugin: type[Plugin]) -> None:
    """Check that an experiment can have `Plugin.defaults`, which the user did not write.

    Raises:
        ConfigError: Naming the class.
    """
    if plugin.__module__.partition(".")[0] not in OURS:
        try:
            Experiment.model_validate({"data": "synthetic", **plugin.defaults})
        except ConfigError as error:
            faults = (f"{plugin.__qualname__}.defaults: {fault}" for fault in error.faults)
            raise ConfigError(*faults) from None


def _class_of(kind: str, value: Any, default: str = "") -> type[Plugin]:
    """Return the class that a section names; `Plugin` if there is none, which its field reports."""
    value = as_mapping(value)
    name = value.get("name", default) if isinstance(value, Mapping) else None
    try:
        return lookup(kind, name) if isinstance(name, str | type) else Plugin
    except ConfigError:
        return Plugin


def _merged(below: Mapping[str, Any], above: Any) -> Any:
    """Return values above others, at any depth; what is no mapping stays."""
    written = as_mapping(above)
    if not isinstance(written, Mapping):
        return above
    replaced = COHORT if COHORT & set(written) else set()
    merged = {key: value for key, value in below.items() if key not in replaced}
    for key, value in written.items():
        inner = merged.get(key)
        joins = isinstance(inner, Mapping) and not _is_other(f"{key}s", inner, value)
        merged[key] = _merged(inner, value) if isinstance(inner, Mapping) and joins else value
    return merged


def _is_other(kind: str, below: Mapping[str, Any], above: Any) -> bool:
    """Return whether two values name different plug-ins of a kind."""
    written = as_mapping(above)
    if not isinstance(written, Mapping) or not {"name"} <= {*written} & {*below}:
        return False
    return _class_of(kind, written) is not _class_of(kind, below)
