"""Plug-ins and how they are found.

A plug-in is a frozen pydantic class; its fields are its configuration. A *table* maps names to
such classes. The tables of the core are literal mappings in their rooms; those of the outer rooms
(``strategies``) and of other distributions are found by entry point, so the core imports neither.
A name with a colon, ``package.module:Class``, is an import reference and needs no table.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, model_validator

from fedrec.errors import ConfigError, FedRecError, did_you_mean

__all__ = ["Defaults", "Plugin", "Section", "find_beside", "lookup", "name_of", "table"]

CORE_TABLES = {
    "data": ("fedrec.data:DATASETS",),
    "models": ("fedrec.models:MODELS", "fedrec.baselines:BASELINES"),
    "personalization": ("fedrec.personalization:PERSONALIZATIONS",),
    "metrics": ("fedrec.evaluation.metrics:METRICS",),
}


Defaults: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Per section of an experiment, values by key."""


class Section(BaseModel):
    """A part of the configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    renamed: ClassVar[Mapping[str, str]] = {}
    """Keys of earlier versions, and what to write instead."""

    def without_effect(self, experiment: Any, split: Any) -> list[str]:
        """Return one line for each setting that changes nothing in an experiment, with the reason.

        Args:
            experiment: The `fedrec.config.experiment.Experiment` that the section belongs to.
            split: Its data, a `fedrec.types.Split`.
        """
        return []

    def unused(self, why: str, *names: str) -> list[str]:
        """Return a line for each of some fields that is not at its default.

        Args:
            why: The reason why the fields have no effect.
            names: The fields.
        """
        fields = type(self).model_fields
        return [
            f"{name}: {getattr(self, name)} has no effect: {why}"
            for name in names
            if getattr(self, name) != fields[name].get_default(call_default_factory=True)
        ]

    @model_validator(mode="before")
    @classmethod
    def _refuse_renamed(cls, values: Any) -> Any:
        for name in values if isinstance(values, Mapping) else ():
            if name in cls.renamed:
                raise ValueError(f"{name}: this key has a new name; write {cls.renamed[name]}")
        return values

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, values: Any) -> Any:
        # Pydantic takes true for 1, and YAML takes yes and on for true.
        for name, value in values.items() if isinstance(values, Mapping) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and not _has_bool(field.annotation):
                raise ValueError(f"{name}: expected a number or a word, got {str(value).lower()}")
        return values


def _has_bool(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(map(_has_bool, get_args(annotation)))


class Plugin(Section):
    """Base of everything that stands in a table; its fields are its configuration.

    Attributes:
        reference: key in ``references.bib`` of the paper it comes from, or "".
        defaults: of a model or a strategy: per section of the experiment, the values that train
            it well. They fill in what the user did not write.
    """

    reference: ClassVar[str] = ""
    defaults: ClassVar[Defaults] = {}


@cache
def table(kind: str) -> Mapping[str, type[Plugin]]:
    """All plug-ins of a kind: the room's own table and those of installed distributions.

    Args:
        kind: ``data``, ``models``, ``personalization``, ``metrics`` or ``strategies``.

    Raises:
        ConfigError: If two distributions bring the same name.
    """
    sources = [*CORE_TABLES.get(kind, ())]
    sources += sorted({entry.value for entry in entry_points(group=f"fedrec.{kind}")})
    merged: dict[str, type[Plugin]] = {}
    for source in sources:
        for name, plugin in _load(source).items():
            if name in merged and merged[name] is not plugin:
                raise ConfigError(f"{kind}: '{name}' is brought by two packages, one is {source}")
            merged[name] = plugin
    return merged


def lookup(kind: str, name: str) -> type[Plugin]:
    """The plug-in class of that name.

    Args:
        kind: See `table`.
        name: A name of the table, or ``package.module:Class``.

    Raises:
        ConfigError: If there is none.
    """
    if ":" in name:
        found = _load(name)
        if not (isinstance(found, type) and issubclass(found, Plugin)):
            raise ConfigError(
                f"{name} is not a plug-in class of fedrec, expected one of the {kind}"
            )
        return found
    known = table(kind)
    if name not in known:
        raise ConfigError(f"'{name}' is not in the table of {kind}{did_you_mean(name, known)}")
    return known[name]


def find_beside(reference: str, folders: Sequence[Path]) -> None:
    """Let the module of a plug-in be found in a folder, if it is found nowhere else.

    The folder is put at the end of ``sys.path``, which engines hand on to their workers.

    Args:
        reference: ``package.module:Class``; a name of a table needs nothing.
        folders: Where to look, in this order.
    """
    module, colon, _ = reference.partition(":")
    top = module.partition(".")[0]
    if not colon or not top.isidentifier() or top in sys.modules or find_spec(top) is not None:
        return
    for folder in folders:
        if (folder / f"{top}.py").is_file() or (folder / top).is_dir():
            sys.path.append(str(folder.resolve()))
            importlib.invalidate_caches()
            return


def name_of(kind: str, plugin: Plugin) -> str:
    """The name under which `lookup` finds the class of a plug-in."""
    for name, known in table(kind).items():
        if type(plugin) is known:
            return name
    return f"{type(plugin).__module__}:{type(plugin).__qualname__}"


def _load(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    if not module or not attribute:
        raise ConfigError(f"'{reference}': expected package.module:Class")
    try:
        found = importlib.import_module(module)
    except FedRecError:
        raise
    except Exception as error:  # the module may be the user's, and so is what it raises
        why = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        absent = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(
            f"{error.name}."
        )
        way_out = (
            "; put its file beside the YAML or into the working folder, or install it"
            if absent
            else ""
        )
        raise ConfigError(f"{reference} cannot be imported: {why}{way_out}") from error
    if not hasattr(found, attribute):
        raise ConfigError(f"module '{module}' has no '{attribute}'")
    return getattr(found, attribute)
