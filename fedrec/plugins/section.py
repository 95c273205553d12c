"""Sections of the configuration: frozen values that explain what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from fedrec.errors import ConfigError, Fault
from fedrec.plugins.faults import explain, shown
from fedrec.plugins.paths import expand_path

__all__ = ["Defaults", "Plugin", "Section"]

Defaults: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Per section of an experiment, values by key."""


class Section(BaseModel):
    """A section of the configuration: frozen, and an unknown key is an error.

    Where it has a field ``name``, a text stands for a section with that name.

    Raises:
        ConfigError: With all faults of the values, one line each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    renamed: ClassVar[Mapping[str, str]] = {}
    """Keys of earlier versions, and what to write instead."""

    def __init__(self, /, **values: Any) -> None:
        faults = [*_bad_keys(values), *self._early_faults(values)]
        refused = {fault.where.partition(".")[0] for fault in faults}
        try:
            super().__init__(**{key: v for key, v in values.items() if key not in refused})
        except ValidationError as error:
            found = explain(error, type(self).model_fields)
            faults += [fault for fault in found if fault.where not in refused]
        if faults:
            raise ConfigError(*faults)

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Return the section that a mapping of keys to values describes.

        Raises:
            ConfigError: With all faults of the values, one line each.
        """
        faults = list(_bad_keys(obj))
        if faults:
            raise ConfigError(*faults)
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise ConfigError(*explain(error, cls.model_fields)) from None

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

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
            return
        raise ConfigError(
            f"{name}: a frozen {type(self).__name__} cannot be changed; make a copy, as with "
            f"load_experiment(experiment, {{'{name}': value}})"
        )

    @model_validator(mode="before")
    @classmethod
    def _expand_short_form(cls, values: Any) -> Any:
        return {"name": values} if isinstance(values, str) and cls._has_name() else values

    @classmethod
    def _has_name(cls) -> bool:
        return "name" in cls.model_fields

    @classmethod
    def _early_faults(cls, values: dict[str, Any]) -> Iterator[Fault]:
        """Yield the faults that pydantic does not know; expand ``~`` in paths on the way."""
        for name, value in values.items():
            field = cls.model_fields.get(name)
            if name in cls.renamed and field is None:
                yield from _renamed(name, cls.renamed[name], value)
            elif field is None:
                continue
            elif isinstance(value, bool) and not _accepts(field.annotation, bool):
                # Pydantic takes true for 1.
                yield Fault(name, f"expected a number or a word, got {shown(value)}")
            elif isinstance(value, str | Path) and _accepts(field.annotation, Path):
                try:
                    values[name] = expand_path(value)
                except ConfigError as error:
                    yield Fault(name, str(error))


class Plugin(Section):
    """Base of everything that stands in a table; its fields are its configuration.

    Attributes:
        reference: key in ``references.bib`` of the paper it comes from, or "".
        defaults: of a model or a strategy: per section of the experiment, the values that train
            it well. They fill in what the user did not write.
    """

    reference: ClassVar[str] = ""
    defaults: ClassVar[Defaults] = {}


def _accepts(annotation: Any, kind: type) -> bool:
    return annotation in (kind, Any) or any(_accepts(each, kind) for each in get_args(annotation))


def _renamed(name: str, new: str, value: Any) -> Iterator[Fault]:
    """Yield a fault for a key of an earlier version, or for each key below it."""
    names = new.split(" and ")
    below = value if isinstance(value, Mapping) and len(names) == 1 and ":" not in new else {}
    for key in below:
        yield Fault(f"{name}.{key}", "this key has a new name; write ", (f"{new}.{key}",))
    if not below:
        yield Fault(name, "this key has a new name; write ", tuple(names))


def _bad_keys(value: Any, where: str = "", seen: set[int] | None = None) -> Iterator[Fault]:
    """Yield the keys that are not text, at any depth of mappings and lists."""
    seen = set() if seen is None else seen
    if not isinstance(value, Mapping | list | tuple) or id(value) in seen:
        return
    seen.add(id(value))
    entries = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, below in entries:
        path = f"{where}.{key}" if where else str(key)
        if isinstance(value, Mapping) and not isinstance(key, str):
            yield Fault(path, f"unknown key: expected text, got {shown(key)}")
        else:
            yield from _bad_keys(below, path, seen)
